// Names are compared as they are written: one with an escape in it is none of those that a request may give.
#include "serve/chat/call_object.h"

#include <utility>

namespace bumblebee::serve {
namespace {

/// A key or a name that is longer is none that is known.
constexpr size_t kLongestName = 128;

uint32_t hex_value(char c) { return uint32_t(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10); }

/// `code` is a character, or half of one.
bool is_high(uint32_t code) { return code >= 0xD800 && code < 0xDC00; }
bool is_low(uint32_t code) { return code >= 0xDC00 && code < 0xE000; }

std::string utf8(uint32_t code) {
  if (code < 0x80) return {char(code)};
  if (code < 0x800) return {char(0xC0 | (code >> 6)), char(0x80 | (code & 0x3F))};
  if (code < 0x10000) return {char(0xE0 | (code >> 12)), char(0x80 | ((code >> 6) & 0x3F)), char(0x80 | (code & 0x3F))};
  return {char(0xF0 | (code >> 18)), char(0x80 | ((code >> 12) & 0x3F)), char(0x80 | ((code >> 6) & 0x3F)),
          char(0x80 | (code & 0x3F))};
}

}  // namespace

ArgumentsValue::Step ArgumentsValue::push(char c, std::string& out) {
  if (form_ == Form::none) {
    form_ = c == '{' ? Form::object : c == '"' ? Form::string : c == 'n' ? Form::null : Form::none;
    if (form_ == Form::none) return Step::malformed;
    if (form_ == Form::object) out += c;
    return outer_.push(c);
  }
  const Step step = outer_.push(c);
  if (step == Step::malformed) return step;
  switch (form_) {
    case Form::object: out += c; return step;
    case Form::null:
      if (step == Step::ends) out += "{}";
      return step;
    default: break;
  }
  if (step != Step::ends) return string_byte(c, out);
  if (high_ != 0 || (inner_begun_ && !inner_over_)) return Step::malformed;
  if (!inner_begun_) out += "{}";
  return step;
}

/// A byte between the quotes; the scanner has found it right there.
ArgumentsValue::Step ArgumentsValue::string_byte(char c, std::string& out) {
  bool good = true;
  if (escape_ == 0 && c == '\\') {
    escape_ = 1;
  } else if (escape_ == 0) {
    good = high_ == 0 && give({&c, 1}, out);
  } else if (!hex_ && c == 'u') {
    hex_ = true;
    code_ = 0;
    escape_ = 4;
  } else if (hex_) {
    code_ = code_ * 16 + hex_value(c);
    if (--escape_ == 0) {
      hex_ = false;
      good = give_code(code_, out);
    }
  } else {
    escape_ = 0;
    const char plain = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : c;
    good = high_ == 0 && give({&plain, 1}, out);
  }
  return good ? Step::more : Step::malformed;
}

/// A code unit of UTF-16; half a character is malformed, as no UTF-8 spells it.
bool ArgumentsValue::give_code(uint32_t code, std::string& out) {
  if (is_high(code) && high_ == 0) {
    high_ = code;
    return true;
  }
  if (is_low(code) != (high_ != 0)) return false;
  if (high_ != 0) code = 0x10000 + ((high_ - 0xD800) << 10) + (code - 0xDC00);
  high_ = 0;
  return give(utf8(code), out);
}

/// The text must be an object, with blanks around it at most.
bool ArgumentsValue::give(std::string_view text, std::string& out) {
  for (const char c : text) {
    if (inner_begun_ != inner_over_) {
      const Step step = inner_.push(c);
      if (step == Step::malformed) return false;
      inner_over_ = step == Step::ends;
    } else if (!inner_begun_ && c == '{') {
      inner_begun_ = true;
      inner_.push(c);
    } else if (!is_json_blank(c)) {
      return false;
    }
  }
  out += text;
  return true;
}

void NamedArguments::begin(std::string_view name, std::string_view id) {
  name_ = name;
  id_ = id;
  value_ = {};
  begun_ = false;
}

ArgumentsValue::Step NamedArguments::push(char c) {
  std::string piece;
  const ArgumentsValue::Step step = value_.push(c, piece);
  if (step == ArgumentsValue::Step::malformed) return step;
  if (!begun_) out_.begin_call(name_, id_);
  begun_ = true;
  out_.arguments(piece);
  return step;
}

CallObject::Step CallObject::push(char c) {
  if (state_ == State::value) return value_byte(c);
  if (state_ == State::in_key) {
    const JsonScanner::Step step = scanner_.push(c);
    if (step == JsonScanner::Step::malformed) return Step::malformed;
    if (step == JsonScanner::Step::ends)
      state_ = State::colon;
    else if (text_.size() <= kLongestName)
      text_ += c;
    return Step::more;
  }
  return is_json_blank(c) && state_ != State::open ? Step::more : take(c);
}

CallObject::Step CallObject::take(char c) {
  switch (state_) {
    case State::open: state_ = State::first_key; return c == '{' ? Step::more : Step::malformed;
    case State::first_key:
    case State::key:
      if (c == '}' && state_ == State::first_key) return Step::malformed;  // no name
      if (c != '"') return Step::malformed;
      text_.clear();
      scanner_ = {};
      scanner_.push(c);
      state_ = State::in_key;
      return Step::more;
    case State::colon: return c == ':' ? begin_value() : Step::malformed;
    default:
      if (c == '}') return close();
      state_ = State::key;
      return c == ',' ? Step::more : Step::malformed;
  }
}

CallObject::Step CallObject::begin_value() {
  role_ = text_ == "name" ? Role::name : text_ == "arguments" || text_ == "parameters" ? Role::arguments : Role::other;
  const bool known = name_ && arguments_;
  if (role_ == Role::other && plain_ && !known && text_ != "type") return Step::malformed;
  if ((role_ == Role::name && name_) || (role_ == Role::arguments && arguments_)) return Step::malformed;
  state_ = State::value;
  scanner_ = {};
  text_.clear();
  value_begun_ = false;
  return Step::more;
}

CallObject::Step CallObject::value_byte(char c) {
  if (!value_begun_ && is_json_blank(c)) return Step::more;
  JsonScanner::Step step;
  if (role_ == Role::arguments) {
    std::string piece;
    step = value_.push(c, piece);
    if (step == JsonScanner::Step::malformed) return Step::malformed;
    arguments_ = true;
    if (name_ && !begun_) begin_call();
    begun_ ? out_.arguments(piece) : void(early_ += piece);
  } else {
    step = scanner_.push(c);
    if (role_ == Role::name && step == JsonScanner::Step::more) {
      if (!value_begun_ && c != '"') return Step::malformed;
      if (value_begun_ && text_.size() <= kLongestName) text_ += c;
    }
  }
  value_begun_ = true;
  if (step == JsonScanner::Step::more) return Step::more;
  if (step == JsonScanner::Step::malformed) return Step::malformed;
  state_ = State::after_value;
  if (role_ == Role::name && !name_over()) return Step::malformed;
  return step == JsonScanner::Step::has_ended ? push(c) : Step::more;
}

bool CallObject::name_over() {
  if (!out_.knows(text_)) return false;
  name_ = text_;
  if (arguments_) begin_call();
  return true;
}

void CallObject::begin_call() {
  out_.begin_call(*name_);
  out_.arguments(early_);
  early_.clear();
  begun_ = true;
}

CallObject::Step CallObject::close() {
  if (!name_ || (plain_ && !arguments_)) return Step::malformed;
  if (!arguments_) {
    early_ = "{}";
    begin_call();
  }
  return Step::whole;
}

}  // namespace bumblebee::serve
