// Whether bytes are well-formed UTF-8 (no overlong forms, no surrogates), and how many code points they hold. For
// checking settings and data; text has its own decoder.
#pragma once

#include <cstdint>
#include <string_view>

namespace bumblebee {

inline bool valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const uint8_t lead = uint8_t(text[i]);
    const int length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (length == 0 || text.size() - i < size_t(length)) return false;
    for (int k = 1; k < length; ++k) {
      if ((uint8_t(text[i + size_t(k)]) & 0xC0) != 0x80) return false;
    }
    if (length > 2) {
      const uint8_t second = uint8_t(text[i + 1]);
      if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
          (lead == 0xF4 && second > 0x8F)) {
        return false;
      }
    }
    i += size_t(length);
  }
  return true;
}

/// Code points of well-formed UTF-8.
inline int64_t count_characters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (uint8_t(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace bumblebee
