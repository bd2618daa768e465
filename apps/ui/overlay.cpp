// The cursor stays at the end of the last line that is drawn.
#include "ui/overlay.h"

#include <cstdio>
#include <utility>

#include "ui/terminal.h"

namespace bumblebee::cli::overlay {

namespace {

// A terminal is process-wide, and so is what stands on it; for who holds it.
std::vector<std::string>& drawn() {
  static auto* const lines = new std::vector<std::string>;  // threads may still log while the process ends
  return *lines;
}

void erase(const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  if (lines.size() > 1) std::fprintf(stderr, "\033[%zuA", lines.size() - 1);
  std::fputs("\r\033[J", stderr);
}

void show(const std::vector<std::string>& lines) {
  for (size_t i = 0; i < lines.size(); ++i) std::fprintf(stderr, "%s%s", i > 0 ? "\n" : "", lines[i].c_str());
  std::fflush(stderr);
}

}  // namespace

void draw(const std::vector<std::string>& lines) {
  const auto held = hold_terminal();
  std::vector<std::string>& old = drawn();
  if (old.empty() && !lines.empty() && is_terminal(stderr)) end_line();
  if (lines.size() != old.size()) {
    erase(old);
    show(lines);
  } else if (!lines.empty()) {  // over each other: erasing first would flicker
    std::string text = lines.size() > 1 ? "\033[" + std::to_string(lines.size() - 1) + "A\r" : "\r";
    for (size_t i = 0; i < lines.size(); ++i) text += (i > 0 ? "\n" : "") + lines[i] + "\033[K";
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  }
  old = lines;
}

void above(const std::function<void()>& write) {
  const auto held = hold_terminal();
  erase(drawn());
  if (drawn().empty() && is_terminal(stderr)) end_line();
  write();
  show(drawn());
}

}  // namespace bumblebee::cli::overlay
