// JSON on standard output: one value per line of output, keys in the order they are documented. A value to build up and
// print, behind which the JSON library is: only json_out.cpp pays for its headers.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bumblebee::cli {

class OutJson {
 public:
  OutJson(std::nullptr_t = nullptr);
  OutJson(const char* text);
  OutJson(const std::string& text);
  OutJson(std::string_view text);
  template <std::same_as<bool> B>
  OutJson(B value) : OutJson(Boolean{value}) {}
  template <std::signed_integral I>
  OutJson(I value) : OutJson(Signed{value}) {}
  template <std::unsigned_integral U>
    requires(!std::same_as<U, bool>)
  OutJson(U value) : OutJson(Unsigned{value}) {}
  template <std::floating_point F>
  OutJson(F value) : OutJson(Real{double(value)}) {}
  template <class T>
  OutJson(const std::vector<T>& values) : OutJson(array()) {
    for (const T& value : values) push_back(OutJson(value));
  }
  /// Pairs of a key and a value make an object, anything else a list.
  OutJson(std::initializer_list<OutJson> values);
  OutJson(const OutJson& other);
  OutJson(OutJson&& other) noexcept;
  OutJson& operator=(OutJson other) noexcept;
  ~OutJson();

  /// What a file of ours holds; null where it is no JSON.
  static OutJson parse(const std::string& text);
  static OutJson array();
  static OutJson object();

  void push_back(OutJson value);
  void set(const std::string& key, OutJson value);

  /// `out["key"] = value`.
  class Slot {
   public:
    Slot(OutJson& object, std::string key) : object_(object), key_(std::move(key)) {}
    void operator=(OutJson value) { object_.set(key_, std::move(value)); }

   private:
    OutJson& object_;
    std::string key_;
  };
  Slot operator[](const std::string& key) { return {*this, key}; }

  bool empty() const;
  bool is_null() const;
  bool is_array() const;
  bool is_string() const;
  OutJson at(const std::string& key) const;
  std::string text() const;  // of a string
  double number() const;     // of a number
  std::vector<OutJson> elements() const;
  std::vector<std::pair<std::string, OutJson>> items() const;
  /// On one line, or indented. Bytes that are not UTF-8 (a token may hold half a character) become U+FFFD.
  std::string dump(int indent = -1) const;

 private:
  struct Boolean {
    bool value;
  };
  struct Signed {
    int64_t value;
  };
  struct Unsigned {
    uint64_t value;
  };
  struct Real {
    double value;
  };
  explicit OutJson(Boolean value);
  explicit OutJson(Signed value);
  explicit OutJson(Unsigned value);
  explicit OutJson(Real value);
  struct Value;
  explicit OutJson(Value value);
  std::unique_ptr<Value> value_;
};

/// Prints `value` on one line. Throws when standard output cannot be written.
void print_json(const OutJson& value);

}  // namespace bumblebee::cli
