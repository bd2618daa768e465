// ASCII in text that comes from outside: blanks around it, the case of its letters. No locale has a part in it.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee {

inline constexpr std::string_view kBlanks = " \t\r\n\f\v";

/// Without the blanks around it.
constexpr std::string_view trimmed(std::string_view text, std::string_view blanks = kBlanks) {
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

/// A to Z as a to z; every other byte stays.
inline std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return out;
}

}  // namespace bumblebee
