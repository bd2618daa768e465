// Ranges, lists and files as CLI11 validators, and parsers of token lists.
#include "options/validators.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>

#include "ui/exit_codes.h"
#include "ui/interrupt.h"

namespace bumblebee::cli {

namespace {

template <class T>
bool parse_whole(std::string_view text, T& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc{} && end == text.data() + text.size() && !text.empty();
}

/// The parts between commas, also the empty ones.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words(1);
  for (char c : text) {
    if (c == ',') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

std::string shortest(double value) { return fmt::format("{:g}", value); }

}  // namespace

uint64_t bytes_of(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = end;
  for (const char* tail : {"iB", "B"}) {
    if (unit.size() > 1 && unit.ends_with(tail)) unit.erase(unit.size() - std::strlen(tail));
  }
  constexpr std::string_view kUnits = "KMGT";
  const size_t power = unit.size() == 1 ? kUnits.find(char(std::toupper(unit.front()))) : std::string_view::npos;
  const bool plain = unit.empty() || unit == "B";
  if (end == text.c_str() || !std::isfinite(number) || number < 0 || (!plain && power == std::string_view::npos))
    return 0;
  const double bytes = plain ? number : std::ldexp(number, 10 * int(power + 1));
  return bytes < 0x1p62 ? uint64_t(bytes) : 0;
}

Check byte_size() {
  return [](const std::string& text) -> std::string {
    if (bytes_of(text) > 0) return {};
    return "expected a number of bytes such as 536870912, 512M or 1.5G, got '" + text + "'";
  };
}

Check integer_between(int64_t low, int64_t high) {
  return [low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    if (parse_whole(text, value) && value >= low && value <= high) return {};
    return "expected an integer from " + std::to_string(low) + " to " + std::to_string(high) + ", got '" + text + "'";
  };
}

Check integers_between(int64_t low, int64_t high) {
  return [one = integer_between(low, high)](const std::string& text) -> std::string {
    for (std::string word : words_of(text)) {
      if (std::string failure = one(word); !failure.empty())
        return failure + (word == text ? "" : " in '" + text + "'");
    }
    return {};
  };
}

std::vector<int> integers_of(const std::vector<std::string>& lists) {
  std::vector<int> out;
  for (const std::string& list : lists) {
    for (const std::string& word : words_of(list)) {
      int value = 0;
      if (!parse_whole(word, value)) throw UsageError("expected an integer, got '" + word + "'");
      out.push_back(value);
    }
  }
  return out;
}

Check number_between(double low, double high) {
  return [low, high](const std::string& text) -> std::string {
    double value = 0;
    if (parse_whole(text, value) && std::isfinite(value) && value >= low && value <= high) return {};
    return "expected a number from " + shortest(low) + " to " + shortest(high) + ", got '" + text + "'";
  };
}

Check one_of(std::vector<std::string> words) {
  const auto look = [words](const std::string& text) -> std::string {
    if (std::find(words.begin(), words.end(), text) != words.end()) return {};
    std::string list;
    for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
    return "expected one of " + list + ", got '" + text + "'";
  };
  return Check(look, words);
}

std::vector<int32_t> parse_token_list(std::string_view text, std::string_view flag) {
  auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  auto trim = [&](std::string_view s) {
    while (!s.empty() && is_space(s.front())) s.remove_prefix(1);
    while (!s.empty() && is_space(s.back())) s.remove_suffix(1);
    return s;
  };
  std::string_view rest = trim(text);
  if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') rest = trim(rest.substr(1, rest.size() - 2));

  std::vector<int32_t> ids;
  while (!rest.empty()) {
    size_t end = rest.find_first_of(", \n\t\r");
    std::string_view word = rest.substr(0, end);
    int32_t id = 0;
    if (!parse_whole(word, id) || id < 0) {
      throw UsageError(std::string(flag) + ": expected token ids such as 1,2,3, got '" +
                       std::string(word.substr(0, 40)) + "'");
    }
    ids.push_back(id);
    rest = end == std::string_view::npos ? std::string_view{} : trim(rest.substr(end));
    if (!rest.empty() && rest.front() == ',') {
      rest = trim(rest.substr(1));
      if (rest.empty()) throw UsageError(std::string(flag) + ": expected a token id after the last comma");
    }
  }
  if (ids.empty()) throw UsageError(std::string(flag) + ": expected at least one token id");
  return ids;
}

std::string read_input(const std::string& path) {
  auto fail = [&path](const std::string& why) { return Error(ErrorCode::bad_file, path == "-" ? "stdin" : path, why); };
  if (path != "-" && std::filesystem::is_directory(path)) throw fail("expected a file, got a directory");
  const int file = path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw fail(std::string("cannot open: ") + std::strerror(errno));
  // Not through stdio, which reads on after a terminal's end of file, and after Ctrl-C.
  std::string text;
  std::vector<char> block(65536);
  ssize_t got = 0;
  bool stopped = false;
  do {
    stopped = !interrupt::wait_readable(file);
    got = stopped ? 0 : ::read(file, block.data(), block.size());
    if (got > 0) text.append(block.data(), size_t(got));
  } while (got > 0 || (got < 0 && errno == EINTR));
  const int failure = errno;
  if (file != STDIN_FILENO) ::close(file);
  if (stopped) throw Error(ErrorCode::cancelled, path == "-" ? "stdin" : path, "interrupted");
  if (got < 0) throw fail(std::string("cannot read: ") + std::strerror(failure));
  return text;
}

}  // namespace bumblebee::cli
