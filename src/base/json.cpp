// A SAX pass checks depth before any tree is built, so that a hostile file costs no memory and no stack.
#include "base/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/foreign_file.h"
#include "base/log.h"

namespace bumblebee {
namespace {

constexpr size_t kNamedKeys = 3;  // of those that are there twice

/// Walks the text once: keeps only one set of keys per open object.
class Guard : public nlohmann::json_sax<nlohmann::json> {
 public:
  Guard(std::string_view where, int depth) : where_(where), limit_(depth) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second && repeated_.size() < kNamedKeys) repeated_.push_back(name.substr(0, 100));
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    // nlohmann's message begins with an identifier in brackets; the part after it is for people.
    const std::string text = e.what();
    const size_t start = text.find("] ");
    error_ = cat("invalid JSON at byte ", position, ": ", text.substr(start == std::string::npos ? 0 : start + 2, 200));
    return false;
  }

  /// What is wrong with the text; empty: nothing.
  const std::string& error() const { return error_; }
  const std::vector<std::string>& repeated() const { return repeated_; }

 private:
  bool open() {
    if (int(keys_.size()) >= limit_)
      throw Error(ErrorCode::bad_file, where_, cat("JSON nested too deeply: expected at most ", limit_, " levels"));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  std::string_view where_;
  int limit_;
  std::vector<std::set<std::string>> keys_;
  std::vector<std::string> repeated_;
  std::string error_;
};

bool begins_number(char c) { return c == '-' || c == 'N' || c == 'I' || (c >= '0' && c <= '9'); }

/// The value at the start of `rest` when Python reads it as a float that JSON cannot say; how long it is.
std::pair<std::string_view, size_t> not_finite(std::string_view rest) {
  for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
    if (rest.starts_with(word)) return {word, word.size()};
  }
  const size_t length = std::min(rest.find_first_not_of("+-.0123456789eE"), rest.size());
  const double value = std::strtod(std::string(rest.substr(0, length)).c_str(), nullptr);
  if (!std::isinf(value)) return {"", length};
  return {value > 0 ? "Infinity" : "-Infinity", length};
}

/// The text with such values as tagged objects; empty when it has none.
std::string tagged(std::string_view text) {
  std::string out;
  size_t copied = 0;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\' ? 1 : 0;
      ++i;
    } else if (begins_number(text[i])) {
      const auto [word, length] = not_finite(text.substr(i));
      if (!word.empty()) {
        out += cat(text.substr(copied, i - copied), R"({"__float__": ")", word, R"("})");
        copied = i + length;
      }
      i += std::max<size_t>(length, 1);
    } else {
      ++i;
    }
  }
  if (copied > 0) out += text.substr(copied);
  return out;
}

/// `is_copy`: tagged() made the text, and its places are none of the file's.
template <class J>
J parse(std::string_view text, std::string_view where, const JsonLimits& limits, bool is_copy = false) {
  if (text.size() > limits.bytes) {
    throw Error(ErrorCode::bad_file, where,
                cat("JSON too large: expected at most ", limits.bytes, " bytes, got ", text.size()));
  }
  // nlohmann takes a zero byte for the end of its input and would not look at what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw Error(ErrorCode::bad_file, where, cat("invalid JSON at byte ", zero + 1, ": unexpected zero byte"));
  }
  Guard guard(where, limits.depth);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &guard)) {
    if (const std::string what = foreign_content(text); !what.empty()) throw Error(ErrorCode::bad_file, where, what);
    if (is_copy)
      throw Error(ErrorCode::bad_file, where, "invalid JSON, even with its NaN and Infinity taken for values");
    const std::string with_tags = limits.finite ? "" : tagged(text);
    if (with_tags.empty()) throw Error(ErrorCode::bad_file, where, guard.error());
    JsonLimits again = limits;
    again.bytes = with_tags.size();  // the file's were counted
    return parse<J>(with_tags, where, again, true);
  }
  if (!guard.repeated().empty()) {
    if (limits.repeated != nullptr) {
      *limits.repeated = true;
    } else {
      std::string names;
      for (const std::string& name : guard.repeated()) names += cat(names.empty() ? "'" : ", '", name, "'");
      note(where, "more than once in an object, the last value counts: ", names);
    }
  }
  try {
    return J::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& e) {
    throw Error(ErrorCode::bad_file, where, cat("invalid JSON: ", e.what()));
  }
}

[[noreturn]] void wrong(std::string_view where, const char* key, std::string_view expected, const Json& got) {
  throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected ", expected, ", got ", brief(got)));
}

const Json* find(const Json& object, const char* key, std::string_view where) {
  if (!object.is_object())
    throw Error(ErrorCode::bad_config, where, cat("expected an object with '", key, "', got ", brief(object)));
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

int64_t as_int(const Json& value, const char* key, std::string_view where, int64_t low, int64_t high) {
  const std::string range = cat("an integer from ", low, " to ", high);
  int64_t n = 0;
  if (value.is_number_unsigned()) {
    const uint64_t u = value.get<uint64_t>();
    if (u > uint64_t(INT64_MAX)) wrong(where, key, range, value);
    n = int64_t(u);
  } else if (value.is_number_integer()) {
    n = value.get<int64_t>();
  } else if (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>() &&
             std::abs(value.get<double>()) < 1e15) {
    n = int64_t(value.get<double>());  // some writers print 8192.0
  } else {
    wrong(where, key, range, value);
  }
  if (n < low || n > high) wrong(where, key, range, value);
  return n;
}

}  // namespace

template <class J>
Kept<J>::Kept() : value_(std::make_unique<J>()) {}
template <class J>
Kept<J>::Kept(J value) : value_(std::make_unique<J>(std::move(value))) {}
template <class J>
Kept<J>::Kept(const Kept& other) : value_(std::make_unique<J>(*other.value_)) {}
template <class J>
Kept<J>::Kept(Kept&&) noexcept = default;
template <class J>
Kept<J>& Kept<J>::operator=(Kept other) noexcept {
  value_ = std::move(other.value_);
  return *this;
}
template <class J>
Kept<J>::~Kept() = default;
template class Kept<Json>;
template class Kept<OrderedJson>;

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  return parse<Json>(text, where, limits);
}
OrderedJson parse_ordered_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  return parse<OrderedJson>(text, where, limits);
}

int64_t require_int(const Json& object, const char* key, std::string_view where, int64_t low, int64_t high) {
  const Json* value = find(object, key, where);
  if (value == nullptr) throw Error(ErrorCode::bad_config, where, cat("missing key '", key, "': expected an integer"));
  return as_int(*value, key, where, low, high);
}

int64_t int_or(const Json& object, const char* key, std::string_view where, int64_t low, int64_t high,
               int64_t fallback) {
  const Json* value = find(object, key, where);
  return value == nullptr ? fallback : as_int(*value, key, where, low, high);
}

double number_or(const Json& object, const char* key, std::string_view where, double fallback) {
  const Json* value = find(object, key, where);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !std::isfinite(value->get<double>())) wrong(where, key, "a finite number", *value);
  return value->get<double>();
}

bool bool_or(const Json& object, const char* key, std::string_view where, bool fallback) {
  const Json* value = find(object, key, where);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) wrong(where, key, "true or false", *value);
  return value->get<bool>();
}

std::string string_or(const Json& object, const char* key, std::string_view where, std::string_view fallback) {
  const Json* value = find(object, key, where);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) wrong(where, key, "a string", *value);
  return value->get<std::string>();
}

bool is_object(const Json& value) { return value.is_object(); }
bool is_falsy(const Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.empty();
}
bool has_key(const Json& object, const char* key) { return object.contains(key); }

std::string brief(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace bumblebee
