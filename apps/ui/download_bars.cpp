// A line for each of the files that come now, and one for all.
#include "ui/download_bars.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "ui/overlay.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

using namespace std::chrono_literals;

namespace {

constexpr size_t kFiles = 8;
constexpr int kNameColumns = 34;

std::string bar(double fraction, int width) {
  const int filled = int(std::clamp(fraction, 0.0, 1.0) * width);
  return "[" + std::string(size_t(filled), '#') + std::string(size_t(width - filled), '.') + "]";
}

/// The end of a name says more than its beginning.
std::string last_part(const std::string& path) {
  std::string name = one_line(path);
  if (int(name.size()) > kNameColumns) name = "..." + name.substr(name.size() - size_t(kNameColumns) + 3);
  name.resize(size_t(kNameColumns), ' ');
  return name;
}

std::string line(const std::string& name, uint64_t done, uint64_t total, const std::string& tail) {
  const double fraction = total == 0 ? 1 : double(done) / double(total);
  const std::string text =
      fmt::format(" {:3.0f}%  {} / {}{}", 100 * fraction, human_bytes(double(done)), human_bytes(double(total)), tail);
  const int room = terminal_columns() - kNameColumns - int(text.size()) - 4;
  return last_part(name) + (room >= 8 ? " " + bar(fraction, std::min(room, 30)) : "") + text;
}

}  // namespace

DownloadBars::DownloadBars(ProgressBar::Visible visible)
    : visible_(visible == ProgressBar::Visible::on_terminal && is_terminal(stderr)) {}

std::string DownloadBars::total_line(const HubProgress& progress, Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = seconds > 0 ? double(progress.done - std::min(progress.done, first_done_)) / seconds : 0;
  std::string tail;
  if (speed > 0)
    tail = fmt::format("  {}/s  {:.0f} s left", human_bytes(speed), double(progress.total - progress.done) / speed);
  const std::string name =
      "all: " + std::to_string(progress.files_done) + " of " + std::to_string(progress.files_total) + " files";
  return line(name, progress.done, progress.total, tail);
}

void DownloadBars::update(const HubProgress& progress) {
  if (!visible_ || progress.files_total == 0) return;
  const auto now = Clock::now();
  if (start_ == Clock::time_point{}) {
    start_ = now;
    first_done_ = progress.done;
  }
  const bool over = progress.files_done == progress.files_total;
  if (over) return clear();
  if (now - start_ < 300ms || now - last_ < 100ms) return;
  last_ = now;
  std::vector<std::string> lines;
  for (const HubFileProgress& file : progress.active) {
    if (lines.size() == kFiles) break;
    lines.push_back(line(file.path, file.done, file.total, ""));
  }
  lines.push_back(total_line(progress, now));
  overlay::draw(lines);
  drawn_ = true;
}

void DownloadBars::clear() {
  if (drawn_) overlay::draw({});
  drawn_ = false;
}

}  // namespace bumblebee::cli
