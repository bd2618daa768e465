// JSON of requests, read strictly: typed values that know where they stand. What is wrong throws an ApiError with the
// JSON path as its param.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/json.h"

namespace bumblebee::serve {

/// A value of a request and the way to it. The way is only written down when something is wrong. Made on the stack,
/// from the value that it is part of, which it may not outlive.
class JsonIn {
 public:
  explicit JsonIn(const OrderedJson& body) : value_(body) {}

  const OrderedJson& operator*() const { return value_; }
  const OrderedJson* operator->() const { return &value_; }
  /// For instance messages[2].content; empty for the body.
  std::string path() const;

  bool is_null() const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;
  size_t size() const;

  /// The member of an object; null where it is absent.
  JsonIn operator[](const char* key) const;
  JsonIn member(std::string_view key, const OrderedJson& value) const;  // found already
  JsonIn at(size_t index) const;                                        // the element of an array

  /// Whole numbers only: 1.0 is one, 1.5, "1" and true are not.
  int64_t integer(int64_t low, int64_t high) const;
  double number(double low, double high) const;
  bool boolean() const;
  const std::string& string(size_t most_bytes = SIZE_MAX) const;
  /// Refuses anything but an array with `least` to `most` elements.
  const JsonIn& array(size_t least, size_t most) const;
  const JsonIn& object() const;

  [[noreturn]] void expected(std::string_view what) const;      // of another type
  [[noreturn]] void out_of_range(std::string_view what) const;  // of this type, and not possible
  [[noreturn]] void missing(std::string_view what) const;       // absent or null, and needed

 private:
  JsonIn(const OrderedJson& value, const JsonIn* parent, std::string_view key, size_t index)
      : value_(value), parent_(parent), key_(key), index_(index) {}

  const OrderedJson& value_;
  const JsonIn* parent_ = nullptr;
  std::string_view key_;
  size_t index_ = 0;
};

/// Reads a body: an object of at most 8 MB, 64 levels deep, without a key twice, a byte-order mark, broken UTF-8, lone
/// surrogates, NaN, numbers beyond a double, or anything behind it.
OrderedJson read_body(std::string_view body);
/// The same for JSON within a body that is written again: also without whole numbers that 64 bits cannot hold, which
/// would come out as others.
OrderedJson read_exact(std::string_view text);

/// For messages: the value's text, cut, on one line.
std::string shown(const OrderedJson& value);

}  // namespace bumblebee::serve
