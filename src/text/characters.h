// One character of well-formed UTF-8 at a time, for those who look at text by characters.
#pragma once

#include <cstdint>
#include <string_view>

namespace bumblebee::txt {

/// The character at `at`, which moves behind it. `text` is UTF-8 and does not end within a character.
inline char32_t next_character(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return char32_t(uint8_t(text[i])); };
  const char32_t lead = byte(at++);
  int more = lead < 0x80 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t c = more == 0 ? lead : lead & (0x3Fu >> more);
  for (; more > 0 && at < text.size(); --more) c = c << 6 | (byte(at++) & 0x3F);
  return c;
}

inline bool is_blank(char32_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0xA0 || c == 0x3000; }

}  // namespace bumblebee::txt
