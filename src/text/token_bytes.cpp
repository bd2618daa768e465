// Units of UTF-8 that may be broken, cut as Python's and Rust's replacing decoders cut them.
#include "text/token_bytes.h"

namespace bumblebee::txt {

size_t first_unit(std::string_view text, bool& broken) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(0);
  const size_t wanted = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  // The second byte tells overlong forms, surrogates and what is beyond U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  size_t length = 1;
  while (length < wanted && length < text.size() && byte(length) >= (length == 1 ? low : 0x80) &&
         byte(length) <= (length == 1 ? high : 0xBF)) {
    ++length;
  }
  broken = length != wanted;
  return length;
}

}  // namespace bumblebee::txt
