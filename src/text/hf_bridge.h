// Owners for what the Rust library hands out, and its statuses as errors. Only the .cpp files of this folder include
// it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/hf/bumblebee_hf.h"

namespace bumblebee::txt::hf {

inline BbHfView view(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

class Bytes {
 public:
  Bytes() = default;
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { bb_hf_bytes_free(raw_); }
  BbHfBytes* out() { return &raw_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(raw_.data), raw_.size}; }
  std::string str() const { return std::string(text()); }

 private:
  BbHfBytes raw_ = {};
};

class Ids {
 public:
  Ids() = default;
  Ids(const Ids&) = delete;
  Ids& operator=(const Ids&) = delete;
  ~Ids() { bb_hf_ids_free(raw_); }
  BbHfIds* out() { return &raw_; }
  std::span<const uint32_t> values() const { return {raw_.data, raw_.size}; }

 private:
  BbHfIds raw_ = {};
};

class Spans {
 public:
  Spans() = default;
  Spans(const Spans&) = delete;
  Spans& operator=(const Spans&) = delete;
  ~Spans() { bb_hf_spans_free(raw_); }
  BbHfSpans* out() { return &raw_; }
  std::span<const BbHfSpan> values() const { return {raw_.data, raw_.size}; }

 private:
  BbHfSpans raw_ = {};
};

inline void check(BbHfStatus status, const Bytes& error, std::string_view where) {
  switch (status) {
    case BB_HF_OK: return;
    case BB_HF_BAD_FILE: throw Error(ErrorCode::bad_file, where, error.text());
    case BB_HF_UNSUPPORTED: throw Error(ErrorCode::unsupported, where, error.text());
    case BB_HF_BAD_REQUEST: throw Error(ErrorCode::bad_request, where, error.text());
  }
}

}  // namespace bumblebee::txt::hf
