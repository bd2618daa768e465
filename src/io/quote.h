// Names from hostile files, made safe to print: short, and with no byte that a terminal or a log would act on.
#pragma once

#include <string>
#include <string_view>

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

}  // namespace bumblebee
