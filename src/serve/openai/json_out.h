// JSON written straight into a buffer: answers have fixed shapes, and a tree for each piece of a stream would cost more
// than the piece.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bumblebee::serve {

/// With quotes. Bytes that are no UTF-8 become U+FFFD, one for each.
void append_string(std::string_view text, std::string& out);
void append_integer(int64_t number, std::string& out);
/// The shortest form that reads back as the same; what JSON has no number for (a probability of 0) becomes -9999.0, as
/// OpenAI writes it.
void append_number(double number, std::string& out);
void append_integers(std::span<const int32_t> numbers, std::string& out);

}  // namespace bumblebee::serve
