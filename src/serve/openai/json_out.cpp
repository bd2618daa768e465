// Escaping by runs: what needs none is copied at once.
#include "serve/openai/json_out.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/utf8.h"

namespace bumblebee::serve {
namespace {

constexpr std::array<bool, 256> escaped_bytes() {
  std::array<bool, 256> escaped{};
  for (size_t c = 0; c < 0x20; ++c) escaped[c] = true;
  escaped['"'] = escaped['\\'] = escaped[0x7F] = true;
  return escaped;
}
constexpr std::array<bool, 256> kEscaped = escaped_bytes();

void append_escape(char c, std::string& out) {
  switch (c) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    default: break;
  }
  constexpr char kDigits[] = "0123456789abcdef";
  out += "\\u00";
  out += kDigits[uint8_t(c) >> 4];
  out += kDigits[uint8_t(c) & 15];
}

void append_escaped(std::string_view text, std::string& out) {
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!kEscaped[uint8_t(text[i])]) continue;
    out.append(text, start, i - start);
    append_escape(text[i], out);
    start = i + 1;
  }
  out.append(text, start);
}

void append_repaired(std::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size();) {
    size_t length = 1;
    while (length <= 4 && i + length <= text.size() && !valid_utf8(text.substr(i, length))) ++length;
    if (length > 4 || i + length > text.size()) {
      out += "\xEF\xBF\xBD";
      ++i;
    } else {
      append_escaped(text.substr(i, length), out);
      i += length;
    }
  }
}

}  // namespace

void append_string(std::string_view text, std::string& out) {
  out += '"';
  if (valid_utf8(text)) {
    append_escaped(text, out);
  } else {
    append_repaired(text, out);
  }
  out += '"';
}

void append_integer(int64_t number, std::string& out) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

void append_number(double number, std::string& out) {
  if (!std::isfinite(number)) {
    out += "-9999.0";
    return;
  }
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

void append_integers(std::span<const int32_t> numbers, std::string& out) {
  out += '[';
  for (const int32_t number : numbers) {
    if (out.back() != '[') out += ',';
    append_integer(number, out);
  }
  out += ']';
}

}  // namespace bumblebee::serve
