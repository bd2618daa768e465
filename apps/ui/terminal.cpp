// Asks the terminal, and writes to standard output with every failure noticed.
#include "ui/terminal.h"

#include <fmt/core.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace bumblebee::cli {

namespace {

// Process-wide state: a terminal is process-wide too.
ColorMode color_mode = ColorMode::automatic;
// Whether standard output has begun a line on its terminal; for who holds it.
bool in_line = false;

bool colored(std::FILE* stream) {
  if (color_mode != ColorMode::automatic) return color_mode == ColorMode::always;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return is_terminal(stream) && (!no_color || !*no_color) && !(term && std::strcmp(term, "dumb") == 0);
}

std::string scaled(double value, const std::array<const char*, 5>& units) {
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) value /= 1000, ++unit;
  std::string out =
      unit == 0 ? fmt::format("{:.0f} {}", value, units[0]) : fmt::format("{:.3g} {}", value, units[unit]);
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

void set_color_mode(ColorMode mode) { color_mode = mode; }

const char* style(std::FILE* stream, Style wanted) {
  if (!colored(stream)) return "";
  switch (wanted) {
    case Style::reset: return "\033[0m";
    case Style::error: return "\033[1;31m";
    case Style::dim: return "\033[2m";
    case Style::bold: return "\033[1m";
    case Style::prompt: return "\033[1;36m";
  }
  return "";
}

bool is_terminal(std::FILE* stream) { return ::isatty(::fileno(stream)) == 1; }

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void write_out(std::string_view text) {
  errno = 0;
  const auto held = hold_terminal();
  static const bool terminal = is_terminal(stdout);
  if (terminal && !text.empty()) in_line = text.back() != '\n';
  bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written) throw std::runtime_error(std::string("[stdout] cannot write: ") + std::strerror(errno));
}

std::unique_lock<std::mutex> hold_terminal() {
  static std::mutex* const only = new std::mutex;  // threads may still log while the process ends
  return std::unique_lock(*only);
}

void end_line() {
  if (!std::exchange(in_line, false)) return;
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

void note(const std::string& text) { std::fprintf(stderr, "bumblebee: note: %s\n", one_line(text).c_str()); }

std::string one_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F steer terminals too: in UTF-8, C2 and one of these bytes.
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {
      out += fmt::format("\\x{:02x}", next);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string human_bytes(double bytes) { return scaled(bytes, {"B", "kB", "MB", "GB", "TB"}); }
std::string human_count(double count) { return scaled(count, {"", "k", "M", "B", "T"}); }

}  // namespace bumblebee::cli
