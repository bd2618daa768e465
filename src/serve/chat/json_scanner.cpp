// The states of a JSON value. A string ends only at its quote, so brackets and tags within it are text.
#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

JsonScanner::Step JsonScanner::push(char c) {
  switch (state_) {
    case State::string:
    case State::escape:
    case State::hex: return string_byte(c);
    case State::literal:
      if (c != rest_.front()) return Step::malformed;
      rest_.remove_prefix(1);
      return rest_.empty() ? value_over() : Step::more;
    case State::minus:
    case State::zero:
    case State::digits:
    case State::point:
    case State::fraction:
    case State::exponent:
    case State::exponent_sign:
    case State::exponent_digits: return number(c);
    case State::over: return Step::malformed;
    default: break;
  }
  if (depth_ > 0 && is_json_blank(c)) return Step::more;
  switch (state_) {
    case State::first_item:
      if (c == ']') return close(false);
      return begin(c);
    case State::first_key:
      if (c == '}') return close(true);
      [[fallthrough]];
    case State::key:
      if (c != '"') return Step::malformed;
      key_ = true;
      state_ = State::string;
      return Step::more;
    case State::colon:
      if (c != ':') return Step::malformed;
      state_ = State::value;
      return Step::more;
    case State::after_value:
      if (c == ',') {
        state_ = objects_[size_t(depth_ - 1)] ? State::key : State::value;
        return Step::more;
      }
      return c == '}' || c == ']' ? close(c == '}') : Step::malformed;
    default: return begin(c);
  }
}

JsonScanner::Step JsonScanner::begin(char c) {
  switch (c) {
    case '{': return open(true);
    case '[': return open(false);
    case '"': key_ = false, state_ = State::string; return Step::more;
    case 't': rest_ = "rue", state_ = State::literal; return Step::more;
    case 'f': rest_ = "alse", state_ = State::literal; return Step::more;
    case 'n': rest_ = "ull", state_ = State::literal; return Step::more;
    case '-': state_ = State::minus; return Step::more;
    case '0': state_ = State::zero; return Step::more;
    default: state_ = State::digits; return c >= '1' && c <= '9' ? Step::more : Step::malformed;
  }
}

JsonScanner::Step JsonScanner::open(bool object) {
  if (depth_ == kCallDepth) return Step::malformed;
  objects_[size_t(depth_++)] = object;
  state_ = object ? State::first_key : State::first_item;
  return Step::more;
}

JsonScanner::Step JsonScanner::close(bool object) {
  if (objects_[size_t(depth_ - 1)] != object) return Step::malformed;
  --depth_;
  return value_over();
}

JsonScanner::Step JsonScanner::value_over() {
  state_ = depth_ == 0 ? State::over : State::after_value;
  return depth_ == 0 ? Step::ends : Step::more;
}

JsonScanner::Step JsonScanner::string_byte(char c) {
  switch (state_) {
    case State::escape:
      left_ = 4;
      state_ = c == 'u' ? State::hex : State::string;
      return c == 'u' || std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos ? Step::more
                                                                                          : Step::malformed;
    case State::hex:
      if (--left_ == 0) state_ = State::string;
      return is_hex(c) ? Step::more : Step::malformed;
    default: break;
  }
  if (c == '\\') {
    state_ = State::escape;
  } else if (c == '"' && key_) {
    state_ = State::colon;
  } else if (c == '"') {
    return value_over();
  }
  return uint8_t(c) < 0x20 ? Step::malformed : Step::more;
}

/// A byte within a number, or the one that follows it.
JsonScanner::Step JsonScanner::number(char c) {
  const bool digit = is_digit(c);
  switch (state_) {
    case State::minus: state_ = c == '0' ? State::zero : State::digits; return digit ? Step::more : Step::malformed;
    case State::point: state_ = State::fraction; return digit ? Step::more : Step::malformed;
    case State::exponent:
      state_ = digit ? State::exponent_digits : State::exponent_sign;
      return digit || c == '+' || c == '-' ? Step::more : Step::malformed;
    case State::exponent_sign: state_ = State::exponent_digits; return digit ? Step::more : Step::malformed;
    default: break;
  }
  if (digit) return state_ == State::zero ? Step::malformed : Step::more;
  if (c == '.' && (state_ == State::zero || state_ == State::digits)) {
    state_ = State::point;
    return Step::more;
  }
  if ((c == 'e' || c == 'E') && state_ != State::exponent_digits) {
    state_ = State::exponent;
    return Step::more;
  }
  const Step step = value_over();
  return step == Step::ends ? Step::has_ended : push(c);
}

}  // namespace bumblebee::serve
