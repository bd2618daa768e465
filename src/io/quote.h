// Names from hostile files, made safe to print: short, and with no byte that a terminal or a log would act on.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee {

/// `name` in single quotes, control and non-ASCII bytes as \xNN, cut after 120 bytes.
inline std::string in_quotes(std::string_view name) {
  static constexpr size_t kLongest = 120;
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  for (const char c : name.substr(0, kLongest)) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '\\' && c != '\'') {
      out += c;
    } else {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out + (name.size() > kLongest ? "...'" : "'");
}

/// "a, b, c and 5 more": at most eight names, in quotes.
inline std::string list_names(const std::vector<std::string>& names) {
  static constexpr size_t kShown = 8;
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) out += (i == 0 ? "" : ", ") + in_quotes(names[i]);
  if (names.size() > kShown) out += " and " + std::to_string(names.size() - kShown) + " more";
  return out;
}

}  // namespace bumblebee
