// Tensors and weights of the reference: vectors of double, and the stored bytes as they are.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "backend/weight.h"
#include "tensor/tensor.h"

namespace bumblebee::ref {

class RefBuffer final : public Buffer {
 public:
  explicit RefBuffer(size_t count) : values(count) {}
  std::vector<double> values;
};

/// Ids.
class RefInts final : public Buffer {
 public:
  explicit RefInts(size_t count) : values(count) {}
  std::vector<int32_t> values;
};

struct RefWeight final : PackedWeight {
  HostWeight host;
};

struct RefStack final : PackedWeight {
  std::vector<Weight> experts;
};

/// Zeros.
inline Tensor make_tensor(int rows, int cols) {
  return Tensor(std::make_shared<RefBuffer>(size_t(rows) * size_t(cols)), DType::f64, rows, cols);
}

inline Tensor make_ints(int rows, int cols, int32_t value) {
  auto buffer = std::make_shared<RefInts>(size_t(rows) * size_t(cols));
  std::fill(buffer->values.begin(), buffer->values.end(), value);
  return Tensor(std::move(buffer), DType::i32, rows, cols);
}

inline std::span<int32_t> ints(const Tensor& t, int r) {
  auto& buffer = static_cast<RefInts&>(*t.buffer());
  return std::span(buffer.values)
      .subspan(t.offset_bytes() / sizeof(int32_t) + size_t(r) * size_t(t.cols()), size_t(t.cols()));
}

inline std::span<double> row(const Tensor& t, int r) {
  auto& buffer = static_cast<RefBuffer&>(*t.buffer());
  return std::span(buffer.values)
      .subspan(t.offset_bytes() / sizeof(double) + size_t(r) * size_t(t.cols()), size_t(t.cols()));
}

inline const HostWeight& host(const Weight& w) { return static_cast<const RefWeight&>(*w.packed).host; }

inline Tensor copy(const Tensor& t) {
  Tensor copy = make_tensor(t.rows(), t.cols());
  for (int r = 0; r < t.rows(); ++r) std::copy_n(row(t, r).begin(), t.cols(), row(copy, r).begin());
  return copy;
}

/// A tensor that may be written: the same one when nobody else holds it, else a copy.
inline Tensor make_writable(Tensor& t) { return t.unique() ? t : copy(t); }

}  // namespace bumblebee::ref
