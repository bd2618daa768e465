// A small state machine over JSON events: top object, then per tensor an object with dtype, shape and data_offsets.
#include "io/safetensors_header.h"

#include <nlohmann/json.hpp>

#include <array>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "io/quote.h"

namespace bumblebee {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 17> kNames = {{{DType::f64, "F64"},
                                                                        {DType::f32, "F32"},
                                                                        {DType::f16, "F16"},
                                                                        {DType::bf16, "BF16"},
                                                                        {DType::f8_e4m3, "F8_E4M3"},
                                                                        {DType::f8_e5m2, "F8_E5M2"},
                                                                        {DType::f8_e8m0, "F8_E8M0"},
                                                                        {DType::i64, "I64"},
                                                                        {DType::i32, "I32"},
                                                                        {DType::i16, "I16"},
                                                                        {DType::i8, "I8"},
                                                                        {DType::u64, "U64"},
                                                                        {DType::u32, "U32"},
                                                                        {DType::u16, "U16"},
                                                                        {DType::u8, "U8"},
                                                                        {DType::boolean, "BOOL"},
                                                                        {DType::c64, "C64"}}};
constexpr size_t kLargestRank = 32;
constexpr int kDeepestExtra = 64;

class HeaderReader {
 public:
  HeaderReader(const std::string& where, std::vector<TensorEntry>& tensors, Metadata& metadata)
      : where_(where), tensors_(tensors), metadata_(metadata) {}

  bool null() {
    if (extra()) return true;
    if (state_ == State::top && name_ == kMetadata) return true;
    wrong("null");
  }
  bool boolean(bool) { return extra() ? true : wrong("a boolean"); }
  bool number_integer(int64_t value) { return extra() ? true : wrong(cat(value)); }
  bool number_unsigned(uint64_t value) {
    if (extra()) return true;
    if (state_ != State::shape && state_ != State::offsets) wrong(cat(value));
    if (state_ == State::shape) {
      if (entry_.shape.size() == kLargestRank)
        fail(cat("shape: expected at most ", kLargestRank, " dimensions, got more"));
      entry_.shape.push_back(value);
    } else {
      if (offsets_ == 2) fail("data_offsets: expected 2 numbers, got more");
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    }
    return true;
  }
  bool number_float(double, const std::string& text) { return extra() ? true : wrong(text); }
  bool binary(Json::binary_t&) { wrong("binary"); }

  bool string(std::string& value) {
    if (extra()) return true;
    if (state_ == State::metadata) {
      if (!metadata_.emplace(name_, value).second) fail("key given twice");
      return true;
    }
    if (state_ != State::tensor || field_ != "dtype") wrong(in_quotes(value));
    for (const auto& [dtype, text] : kNames) {
      if (text == value) {
        entry_.dtype = dtype;
        return true;
      }
    }
    fail(cat("dtype: expected one that safetensors knows (F32, F16, BF16, U32, ...), got ", in_quotes(value)));
  }

  bool start_object(std::size_t) {
    if (extra_depth_ > 0 || (state_ == State::tensor && !known_field())) return enter_extra();
    if (state_ == State::begin) {
      state_ = State::top;
    } else if (state_ == State::top && name_ == kMetadata) {
      state_ = State::metadata;
    } else if (state_ == State::top) {
      state_ = State::tensor;
      entry_ = {};
      entry_.name = name_;
      offsets_ = 0;
      fields_.clear();
    } else {
      wrong("an object");
    }
    return true;
  }

  bool key(std::string& key) {
    if (extra_depth_ > 0) return true;
    if (state_ == State::tensor) {
      field_ = key;
      if (!fields_.insert(key).second) fail(cat("key ", in_quotes(key), " given twice"));
      return true;
    }
    name_ = key;
    if (state_ == State::top && !names_.insert(key).second) fail("name given twice");
    return true;
  }

  bool end_object() {
    if (extra_depth_ > 0) return leave_extra();
    if (state_ == State::tensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (fields_.count(field) == 0) fail(cat("missing key '", field, "'"));
      }
      tensors_.push_back(std::move(entry_));
    }
    state_ = state_ == State::top ? State::end : State::top;
    return true;
  }

  bool start_array(std::size_t) {
    if (extra_depth_ > 0 || (state_ == State::tensor && !known_field())) return enter_extra();
    if (state_ == State::tensor && field_ == "shape") {
      state_ = State::shape;
    } else if (state_ == State::tensor && field_ == "data_offsets") {
      state_ = State::offsets;
    } else {
      wrong("an array");
    }
    return true;
  }

  bool end_array() {
    if (extra_depth_ > 0) return leave_extra();
    if (state_ == State::offsets && offsets_ != 2) fail(cat("data_offsets: expected 2 numbers, got ", offsets_));
    state_ = State::tensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    throw Error(ErrorCode::bad_file, where_,
                cat("header: expected JSON, got something else near byte ", position, last_name()));
  }

 private:
  enum class State : uint8_t { begin, top, metadata, tensor, shape, offsets, end };
  static constexpr std::string_view kMetadata = "__metadata__";

  bool known_field() const { return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets"; }
  // Keys beyond the three of the format are skipped, as the format's own reader does.
  bool extra() const { return extra_depth_ > 0 || (state_ == State::tensor && !known_field()); }
  bool enter_extra() {
    if (++extra_depth_ > kDeepestExtra) fail(cat("expected at most ", kDeepestExtra, " nested values, got more"));
    return true;
  }
  bool leave_extra() { return --extra_depth_, true; }

  std::string last_name() const { return name_.empty() ? "" : cat(", at or after ", in_quotes(name_)); }

  [[noreturn]] void fail(const std::string& what) const {
    if (name_ == kMetadata || state_ == State::metadata) {
      throw Error(ErrorCode::bad_file, where_,
                  cat("header: __metadata__ ", state_ == State::metadata ? in_quotes(name_) : "", ": ", what));
    }
    throw Error(ErrorCode::bad_file, where_, cat("tensor ", in_quotes(name_), ": ", what));
  }

  [[noreturn]] bool wrong(const std::string& got) const {
    switch (state_) {
      case State::begin:
      case State::end: throw Error(ErrorCode::bad_file, where_, cat("header: expected an object, got ", got));
      case State::metadata: fail(cat("expected a string, got ", got));
      case State::top: fail(cat("expected an object, got ", got));
      case State::shape: fail(cat("shape: expected whole numbers of 0 or more, got ", got));
      case State::offsets: fail(cat("data_offsets: expected whole numbers of 0 or more, got ", got));
      case State::tensor: fail(cat(field_, ": expected ", field_ == "dtype" ? "a string" : "an array", ", got ", got));
    }
    fail(got);
  }

  const std::string& where_;
  std::vector<TensorEntry>& tensors_;
  Metadata& metadata_;
  State state_ = State::begin;
  TensorEntry entry_;
  std::string name_, field_;
  std::unordered_set<std::string> names_, fields_;
  int offsets_ = 0, extra_depth_ = 0;
};

}  // namespace

std::string_view safetensors_name(DType dtype) {
  for (const auto& [value, name] : kNames) {
    if (value == dtype) return name;
  }
  return "unknown";
}

void parse_safetensors_header(std::string_view text, const std::string& where, std::vector<TensorEntry>& tensors,
                              Metadata& metadata) {
  // The JSON library takes a NUL for the end of its input: what follows one would never be looked at.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw Error(ErrorCode::bad_file, where, cat("header: expected JSON, got a NUL at byte ", nul));
  }
  HeaderReader reader(where, tensors, metadata);
  Json::sax_parse(text.begin(), text.end(), &reader);
}

}  // namespace bumblebee
