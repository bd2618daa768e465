// Text as it stands between the quotes of a JSON string.
#pragma once

#include <string>
#include <string_view>

namespace bumblebee::serve {

inline void append_json_text(std::string& out, char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(c);
  if (c == '"' || c == '\\') {
    out += '\\';
    out += c;
  } else if (c == '\n') {
    out += "\\n";
  } else if (byte < 0x20) {
    out += "\\u00";
    out += kHex[byte >> 4];
    out += kHex[byte & 15];
  } else {
    out += c;
  }
}

inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) append_json_text(out, c);
  return out + '"';
}

}  // namespace bumblebee::serve
