// Owners for what the Rust library hands out, and its statuses as errors. Only .cpp files include it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "rust/text.h"

namespace bumblebee::rust {

inline BbView view(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

class Bytes {
 public:
  Bytes() = default;
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { bb_bytes_free(raw_); }
  BbBytes* out() { return &raw_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(raw_.data), raw_.size}; }
  std::string str() const { return std::string(text()); }

 private:
  BbBytes raw_ = {};
};

class Ids {
 public:
  Ids() = default;
  Ids(const Ids&) = delete;
  Ids& operator=(const Ids&) = delete;
  ~Ids() { bb_ids_free(raw_); }
  BbIds* out() { return &raw_; }
  std::span<const uint32_t> values() const { return {raw_.data, raw_.size}; }

 private:
  BbIds raw_ = {};
};

class Spans {
 public:
  Spans() = default;
  Spans(const Spans&) = delete;
  Spans& operator=(const Spans&) = delete;
  ~Spans() { bb_spans_free(raw_); }
  BbSpans* out() { return &raw_; }
  std::span<const BbSpan> values() const { return {raw_.data, raw_.size}; }

 private:
  BbSpans raw_ = {};
};

inline void check(BbStatus status, const Bytes& error, std::string_view where) {
  switch (status) {
    case BB_OK: return;
    case BB_BAD_FILE: throw Error(ErrorCode::bad_file, where, error.text());
    case BB_UNSUPPORTED: throw Error(ErrorCode::unsupported, where, error.text());
    case BB_BAD_CONFIG: throw Error(ErrorCode::bad_config, where, error.text());
    case BB_BAD_REQUEST: throw Error(ErrorCode::bad_request, where, error.text());
  }
}

}  // namespace bumblebee::rust
