// What fused_ops.cpp, attention_ops.cpp and expert_ops.cpp ask of tensors and weights before they make stages of
// products, or norms of their own.
#pragma once

#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/rows.h"
#include "backend/cuda/weights.h"
#include "tensor/tensor.h"

namespace bumblebee::cuda {

inline bool same(const Tensor& a, const Tensor& b) {
  return a.buffer() == b.buffer() && a.offset_bytes() == b.offset_bytes() && a.rows() == b.rows() &&
         a.cols() == b.cols();
}

inline NormArgs norm_args(const Tensor& x, const Tensor& y, const NormParams& norm) {
  return {.x = data(x),
          .w = data(norm.w),
          .y = data(y),
          .rows = x.rows(),
          .cols = x.cols(),
          .width = norm.w.cols(),
          .eps = norm.eps};
}

inline ScaleType scale_type(Element element) {
  BB_CHECK(element != Element::i8);
  return element == Element::f32 ? ScaleType::f32 : element == Element::f16 ? ScaleType::f16 : ScaleType::bf16;
}

inline constexpr int kMostOutputs = 1 << 18;  // of a stage: what it has counters for

inline ProductStage stage_of(const WeightView& w) {
  return {.in = w.in,
          .bits = w.bits,
          .group = w.group,
          .scale = scale_type(w.scale),
          .scale_row = w.scale_row,
          .input = {}};
}

/// Whether there are stages of its format.
inline bool has_stage(const WeightView& w) { return w.code == Code::uint && w.bits > 0 && w.scale == w.bias; }

/// Of the weight and the card alone, so that a row takes the same kernel in any company.
inline bool fits_stage(const WeightView& w) {
  return has_stage(w) && w.out > 0 && w.out <= kMostOutputs && rows_at_once(stage_of(w)) > 0;
}

/// The same for several rows at a time.
inline bool fits_row_tiles(const WeightView& w, int rows) {
  return has_stage(w) && w.out > 0 && w.out <= kMostOutputs && takes_row_tiles(stage_of(w), rows);
}

/// Whether two weights may be terms of one stage.
inline bool same_format(const WeightView& a, const WeightView& b) {
  return a.code == b.code && a.bits == b.bits && a.group == b.group && a.scale == b.scale && a.scale_row == b.scale_row;
}

}  // namespace bumblebee::cuda
