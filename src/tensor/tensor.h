// Activations: counted handles onto dense row-major matrices. No strides, no axes beyond two; what a row means is in
// Batch.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "base/error.h"
#include "tensor/dtype.h"

namespace bumblebee {

/// Bytes owned by one backend. Destroying the last handle returns them to that backend's pool.
class Buffer {
 public:
  virtual ~Buffer() = default;
};

/// A dense row-major matrix on one backend. A value: copies share bytes. Rows are tokens, columns are features.
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Buffer> buffer, DType dtype, int rows, int cols)
      : buffer_(std::move(buffer)), rows_(rows), cols_(cols), dtype_(dtype) {}

  explicit operator bool() const { return buffer_ != nullptr; }
  DType dtype() const { return dtype_; }
  int rows() const { return rows_; }
  int cols() const { return cols_; }
  size_t size_bytes() const { return size_t(rows_) * size_t(cols_) * size_t(size_of(dtype_)); }
  /// Where this view begins inside its buffer.
  size_t offset_bytes() const { return offset_; }
  const std::shared_ptr<Buffer>& buffer() const { return buffer_; }
  /// True when no other handle can see these bytes, so that an operation may write in place.
  bool unique() const { return buffer_.use_count() == 1; }

  /// A view of `count` rows from `first`; shares the buffer.
  Tensor slice_rows(int first, int count) const {
    BB_CHECK(first >= 0 && count >= 0 && first + count <= rows_, "first ", first, " count ", count, " rows ", rows_);
    Tensor view = *this;
    view.offset_ += size_t(first) * size_t(cols_) * size_t(size_of(dtype_));
    view.rows_ = count;
    return view;
  }

 private:
  std::shared_ptr<Buffer> buffer_;
  size_t offset_ = 0;
  int rows_ = 0, cols_ = 0;
  DType dtype_ = DType::f32;
};

}  // namespace bumblebee
