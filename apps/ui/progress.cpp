// Draws at most twenty times a second.
#include "ui/progress.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "ui/overlay.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

using namespace std::chrono_literals;

ProgressBar::ProgressBar(std::string label, Unit unit, Visible visible)
    : label_(std::move(label)), unit_(unit), visible_(visible == Visible::on_terminal && is_terminal(stderr)) {}

void ProgressBar::update(uint64_t done, uint64_t total, std::string_view remark, double seconds_left) {
  if (!visible_ || total == 0) return;
  auto now = Clock::now();
  // Work that ends within a third of a second never shows a bar: flicker tells nobody anything.
  if (now - start_ < 300ms || (now - last_ < 50ms && done < total)) return;
  last_ = now;

  double fraction = std::min(1.0, double(done) / double(total));
  double seconds = std::chrono::duration<double>(now - start_).count();
  std::string amount = unit_ == Unit::bytes ? human_bytes(double(done)) + " / " + human_bytes(double(total))
                                            : std::to_string(done) + " / " + std::to_string(total);
  double left = seconds_left >= 0 ? seconds_left : fraction > 0 ? seconds * (1 - fraction) / fraction : 0;
  std::string time = left < 600 ? fmt::format("{:.0f} s", left) : fmt::format("{:.0f} min", left / 60);
  std::string tail = fmt::format(" {:3.0f}%  {}{}{}", 100 * fraction, amount, remark.empty() ? "" : "  ", remark);
  if (done > 0 || seconds_left >= 0) tail += "  " + time + " left";

  int room = terminal_columns() - int(label_.size()) - int(tail.size()) - 4;
  std::string bar;
  // A line that wraps could not be drawn over.
  if (room < 0) tail.resize(size_t(std::max(0, int(tail.size()) + room)));
  if (room >= 10) {
    int width = std::min(room, 40);
    int filled = int(fraction * width);
    bar = " [" + std::string(size_t(filled), '#') + std::string(size_t(width - filled), '.') + "]";
  }
  overlay::draw({label_ + bar + tail});
  drawn_ = true;
}

void ProgressBar::clear() {
  if (!drawn_) return;
  overlay::draw({});
  drawn_ = false;
}

}  // namespace bumblebee::cli
