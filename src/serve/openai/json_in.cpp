// One pass over the text builds the tree and holds it to its limits while it grows. Keys keep their order, since tools
// and messages are shown to a template as they were sent.
#include "serve/openai/json_in.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "serve/openai/errors.h"

namespace bumblebee::serve {
namespace {

constexpr size_t kBodyBytes = size_t{8} << 20;
constexpr size_t kDepth = 64;
constexpr size_t kValues = 1'000'000;  // each takes up to 50 bytes of memory, and two of the body
constexpr size_t kKeys = 4096;         // of one object: they are searched from the first

/// Of a path. A key may be as long as the body.
std::string_view short_key(std::string_view key) { return key.substr(0, 64); }

class Builder : public nlohmann::json_sax<OrderedJson> {
 public:
  explicit Builder(bool exact) : exact_(exact) {}
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (exact_ && text.find_first_of(".eE") == text.npos) refuse("expected whole numbers of at most 64 bits");
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON
  bool start_object(size_t) override { return open(OrderedJson::object()); }
  bool start_array(size_t) override { return open(OrderedJson::array()); }
  bool key(string_t& name) override {
    auto& members = open_.back()->get_ref<OrderedJson::object_t&>();
    if (members.size() == kKeys) refuse(cat("expected at most ", kKeys, " keys in an object"));
    members.emplace_back(std::move(name), nullptr);
    return true;
  }
  bool end_object() override {
    check_keys();
    open_.pop_back();
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    // nlohmann's message begins with an identifier in brackets and the position; the rest is for people.
    const std::string_view text = e.what();
    const size_t start = text.find("] ");
    refuse(cat("invalid JSON at byte ", position, ": ", text.substr(start == text.npos ? 0 : start + 2, 200)));
  }

  OrderedJson take() { return std::move(root_); }

 private:
  template <class Value>
  bool add(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }
  bool open(OrderedJson value) {
    if (open_.size() == kDepth) refuse(cat("expected JSON of at most ", kDepth, " levels"));
    open_.push_back(place(std::move(value)));
    return true;
  }
  OrderedJson* place(OrderedJson value) {
    if (++values_ > kValues) refuse(cat("expected at most ", kValues, " values"));
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    OrderedJson& parent = *open_.back();
    if (parent.is_array()) {
      auto& elements = parent.get_ref<OrderedJson::array_t&>();
      elements.push_back(std::move(value));
      return &elements.back();
    }
    OrderedJson& member = parent.get_ref<OrderedJson::object_t&>().back().second;
    member = std::move(value);
    return &member;
  }

  /// Two readers of one body may not see two requests: which of two equal keys counts is nowhere written.
  void check_keys() {
    std::vector<std::string_view> names;
    for (const auto& [name, value] : open_.back()->get_ref<const OrderedJson::object_t&>()) names.push_back(name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return;
    std::string path;
    for (size_t i = 0; i + 1 < open_.size(); ++i) {
      const OrderedJson& level = *open_[i];
      path += level.is_array()
                  ? cat("[", level.size() - 1, "]")
                  : cat(path.empty() ? "" : ".", short_key(level.get_ref<const OrderedJson::object_t&>().back().first));
    }
    path += cat(path.empty() ? "" : ".", short_key(*twice));
    throw ApiError(Refusal::invalid_json, cat(path, ": expected every key once in an object, got it twice"), path);
  }

  [[noreturn]] static void refuse(const std::string& what) { throw ApiError(Refusal::invalid_json, what); }

  const bool exact_;
  OrderedJson root_;
  std::vector<OrderedJson*> open_;  // a parent's last element is never moved while it is open
  size_t values_ = 0;
};

std::string_view name_of(const OrderedJson& value) {
  return value.is_null()      ? "null"
         : value.is_boolean() ? "a boolean"
         : value.is_number()  ? "a number"
         : value.is_string()  ? "a string"
         : value.is_array()   ? "an array"
                              : "an object";
}

const OrderedJson& null_value() {
  static const OrderedJson value;
  return value;
}

OrderedJson read(std::string_view body, bool exact) {
  if (body.size() > kBodyBytes) {
    throw ApiError(Refusal::body_too_large,
                   cat("expected a body of at most ", kBodyBytes, " bytes, got ", body.size()));
  }
  // nlohmann skips a byte-order mark, and takes a zero byte for the end of its input.
  if (body.starts_with("\xEF\xBB\xBF")) {
    throw ApiError(Refusal::invalid_json, "invalid JSON at byte 1: expected no byte-order mark");
  }
  if (const size_t zero = body.find('\0'); zero != body.npos) {
    throw ApiError(Refusal::invalid_json, cat("invalid JSON at byte ", zero + 1, ": unexpected zero byte"));
  }
  Builder builder(exact);
  OrderedJson::sax_parse(body.begin(), body.end(), &builder);
  OrderedJson json = builder.take();
  if (!json.is_object()) {
    throw ApiError(Refusal::invalid_type, cat("expected a JSON object as the body, got ", name_of(json)));
  }
  return json;
}

}  // namespace

OrderedJson read_body(std::string_view body) { return read(body, false); }
OrderedJson read_exact(std::string_view text) { return read(text, true); }

std::string shown(const OrderedJson& value) {
  if (value.is_array() || value.is_object()) return cat(name_of(value), " of ", value.size());
  if (value.is_string() && value.get_ref<const std::string&>().size() > 60) {
    return cat("a string of ", value.get_ref<const std::string&>().size(), " bytes");
  }
  return value.dump();
}

std::string JsonIn::path() const {
  if (parent_ == nullptr) return {};
  const std::string before = parent_->path();
  if (parent_->is_array()) return cat(before, "[", index_, "]");
  return cat(before, before.empty() ? "" : ".", short_key(key_));
}

bool JsonIn::is_null() const { return value_.is_null(); }
bool JsonIn::is_string() const { return value_.is_string(); }
bool JsonIn::is_array() const { return value_.is_array(); }
bool JsonIn::is_object() const { return value_.is_object(); }
size_t JsonIn::size() const { return value_.size(); }

JsonIn JsonIn::operator[](const char* key) const {
  const auto it = value_.find(key);
  return {it == value_.end() ? null_value() : *it, this, key, 0};
}
JsonIn JsonIn::member(std::string_view key, const OrderedJson& value) const { return {value, this, key, 0}; }
JsonIn JsonIn::at(size_t index) const { return {value_[index], this, {}, index}; }

int64_t JsonIn::integer(int64_t low, int64_t high) const {
  const auto range = [&] { return cat("a whole number from ", low, " to ", high); };
  if (!value_.is_number()) expected(range());
  int64_t number = 0;
  if (value_.is_number_float()) {
    const double real = value_.get<double>();
    if (std::trunc(real) != real || std::abs(real) > 9e15) out_of_range(range());
    number = int64_t(real);  // some writers print 128.0
  } else if (value_.is_number_unsigned() && value_.get<uint64_t>() > uint64_t(INT64_MAX)) {
    out_of_range(range());
  } else {
    number = value_.get<int64_t>();
  }
  if (number < low || number > high) out_of_range(range());
  return number;
}

double JsonIn::number(double low, double high) const {
  const auto range = [&] { return cat("a number from ", low, " to ", high); };
  if (!value_.is_number()) expected(range());
  const double number = value_.get<double>();
  if (!(number >= low && number <= high)) out_of_range(range());
  return number;
}

bool JsonIn::boolean() const {
  if (!value_.is_boolean()) expected("true or false");
  return value_.get<bool>();
}

const std::string& JsonIn::string(size_t most_bytes) const {
  if (!value_.is_string()) expected("a string");
  const std::string& text = value_.get_ref<const std::string&>();
  if (text.size() > most_bytes) out_of_range(cat("a string of at most ", most_bytes, " bytes"));
  return text;
}

const JsonIn& JsonIn::array(size_t least, size_t most) const {
  const auto range = [&] { return cat("an array with ", least, " to ", most, " elements"); };
  if (!value_.is_array()) expected(range());
  if (value_.size() < least || value_.size() > most) out_of_range(range());
  return *this;
}

const JsonIn& JsonIn::object() const {
  if (!value_.is_object()) expected("an object");
  return *this;
}

void JsonIn::expected(std::string_view what) const {
  const std::string here = path();
  throw ApiError(Refusal::invalid_type, cat(here, ": expected ", what, ", got ", shown(value_)), here);
}
void JsonIn::out_of_range(std::string_view what) const {
  const std::string here = path();
  throw ApiError(Refusal::invalid_value, cat(here, ": expected ", what, ", got ", shown(value_)), here);
}
void JsonIn::missing(std::string_view what) const {
  const std::string here = path();
  throw ApiError(Refusal::missing_field, cat(here, ": expected ", what, ", got nothing"), here);
}

}  // namespace bumblebee::serve
