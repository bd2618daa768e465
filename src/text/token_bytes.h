// What each token adds to a text, for the decoders whose text is these bytes one after the other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::txt {

struct TokenBytes {
  enum class Kind : uint8_t {
    text,
    fallback_byte,  // <0xE4>: a run of such bytes is text where the whole is UTF-8, and U+FFFD for each byte elsewhere
    nothing,        // no token has this id
  };
  struct Token {
    Kind kind = Kind::nothing;
    bool special = false;  // skipped where a decode skips special tokens
    uint32_t end = 0;      // in `bytes`; begins where the token before it ends
  };
  std::vector<Token> tokens;
  std::string bytes;
  std::string strip;       // dropped at the start of a text,
  size_t strip_count = 0;  // so many times at most

  std::string_view of(int32_t id) const {
    const size_t first = id == 0 ? 0 : tokens[size_t(id) - 1].end;
    return std::string_view(bytes).substr(first, tokens[size_t(id)].end - first);
  }
};

/// Length of the first unit of a text that is not empty: a character, or as much of one as is there, which a reader
/// replaces by one U+FFFD (`broken`).
size_t first_unit(std::string_view text, bool& broken);

}  // namespace bumblebee::txt
