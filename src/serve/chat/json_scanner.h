// One JSON value (RFC 8259, strictly), taken byte by byte as it comes: where it ends, and whether it is one. Nothing is
// built and nothing is read twice.
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>

#include "serve/chat/answer_parser.h"

namespace bumblebee::serve {

inline constexpr std::string_view kJsonBlanks = " \n\r\t";
inline bool is_json_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

class JsonScanner {
 public:
  enum class Step : uint8_t {
    more,
    ends,       // with this byte
    has_ended,  // before this byte: a number, which only what follows it ends
    malformed,
  };
  /// The first byte is the value's own: blanks before it are the caller's.
  Step push(char c);

 private:
  enum class State : uint8_t {
    value,        // a value must come
    first_item,   // after [: a value or ]
    first_key,    // after {: a key or }
    key,          // after a comma in an object
    colon,        // after a key
    after_value,  // within an array or an object
    string,
    escape,
    hex,
    literal,
    minus,  // parts of a number: what came last
    zero,
    digits,
    point,
    fraction,
    exponent,
    exponent_sign,
    exponent_digits,
    over,
  };
  Step begin(char c);
  Step open(bool object);
  Step close(bool object);
  Step string_byte(char c);
  Step number(char c);
  Step value_over();

  std::bitset<size_t(kCallDepth)> objects_;  // of each level: an object, or an array
  int depth_ = 0;
  State state_ = State::value;
  bool key_ = false;       // the string is a key
  uint8_t left_ = 0;       // hex digits
  std::string_view rest_;  // of a literal
};

}  // namespace bumblebee::serve
