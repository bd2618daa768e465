// Sizes and layouts. Rows of packed operands end with a line or half of one that nobody reads: rows a power of two
// apart would share the lines of a small cache.
#include "backend/cpu/grad_operands.h"

#include <algorithm>

namespace bumblebee::cpu {
namespace {

constexpr int kTransposeRows = 16;  // transposed at a time on the way to bf16

size_t transposed_stride(int count) { return up_to(count, 16) + 16; }  // f32
size_t half_stride(int depth) { return up_to(depth, 32) + 32; }        // bf16
size_t tile_words(int depth) { return size_t(depth + 1) / 2 * kPairCols; }

}  // namespace

size_t Operands::left_room(int rows, int depth) const { return bf16_ ? size_t(rows) * half_stride(depth) / 2 : 0; }

size_t Operands::transposed_left_room(int rows, int depth) const {
  if (!bf16_) return size_t(rows) * transposed_stride(depth);
  return size_t(rows) * half_stride(depth) / 2 + kTransposeRows * transposed_stride(depth);
}

size_t Operands::right_room(int depth, int cols) const {
  return bf16_ ? up_to(cols, kPairCols) / kPairCols * tile_words(depth) : 0;
}

size_t Operands::transposed_right_room(int depth, int cols) const {
  return bf16_ ? right_room(depth, cols) : size_t(depth) * transposed_stride(cols);
}

Operands::Left Operands::left(const float* x, size_t stride, int rows, int depth, float* room) const {
  if (!bf16_) return {x, stride};
  auto* const out = reinterpret_cast<uint16_t*>(room);
  const size_t out_stride = half_stride(depth);
  for (int r = 0; r < rows; ++r) {
    uint16_t* const to = out + size_t(r) * out_stride;
    k_.round_bf16(x + size_t(r) * stride, depth, to);
    to[depth] = 0;  // the partner of an odd last element
  }
  return {out, out_stride};
}

Operands::Left Operands::transposed_left(const float* x, size_t stride, int rows, int depth, float* room) const {
  const size_t wide = transposed_stride(depth);
  if (!bf16_) {
    k_.transpose(x, stride, depth, rows, room, wide);
    return {room, wide};
  }
  const size_t out_stride = half_stride(depth);
  auto* const out = reinterpret_cast<uint16_t*>(room);
  float* const transposed = room + size_t(rows) * out_stride / 2;
  for (int r = 0; r < rows; r += kTransposeRows) {
    const int count = std::min(kTransposeRows, rows - r);
    k_.transpose(x + r, stride, depth, count, transposed, wide);
    for (int i = 0; i < count; ++i) {
      uint16_t* const to = out + size_t(r + i) * out_stride;
      k_.round_bf16(transposed + size_t(i) * wide, depth, to);
      to[depth] = 0;
    }
  }
  return {out, out_stride};
}

Operands::Right Operands::right(const float* x, size_t stride, int depth, int cols, float* room) const {
  if (!bf16_) return {x, stride};
  WeightRows rows;
  rows.codes = reinterpret_cast<const uint8_t*>(x);
  rows.row_bytes = stride * sizeof(float);
  rows.in = cols;
  k_.decode_pairs(rows, 0, depth, 0, cols, reinterpret_cast<uint32_t*>(room));
  return {room, tile_words(depth)};
}

Operands::Right Operands::transposed_right(const float* x, size_t stride, int depth, int cols, float* room) const {
  if (bf16_) {
    k_.transpose_pairs(x, stride, cols, depth, reinterpret_cast<uint32_t*>(room));
    return {room, tile_words(depth)};
  }
  const size_t wide = transposed_stride(cols);
  k_.transpose(x, stride, cols, depth, room, wide);
  for (int d = 0; d < depth; ++d) std::fill(room + size_t(d) * wide + cols, room + size_t(d + 1) * wide, 0.0f);
  return {room, wide};
}

Operands::Left Operands::from(const Left& left, int row, int depth) const {
  const size_t at = size_t(row) * left.stride + size_t(depth);
  return {static_cast<const char*>(left.data) + at * (bf16_ ? sizeof(uint16_t) : sizeof(float)), left.stride};
}

Operands::Right Operands::from(const Right& right, int depth, int col) const {
  const size_t at = bf16_ ? size_t(col / kPairCols) * right.stride + size_t(depth / 2) * kPairCols
                          : size_t(depth) * right.stride + size_t(col);
  return {static_cast<const char*>(right.data) + 4 * at, right.stride};
}

void Operands::multiply(const Left& left, const Right& right, int rows, int cols, int depth,
                        const Result& result) const {
  if (bf16_) {
    k_.gemm_bf16({.a = static_cast<const uint16_t*>(left.data),
                  .a_stride = left.stride,
                  .b = static_cast<const uint32_t*>(right.data),
                  .b_tile = right.stride,
                  .c = result.c,
                  .c_stride = result.stride,
                  .rows = rows,
                  .cols = cols,
                  .pairs = (depth + 1) / 2,
                  .accumulate = result.accumulate});
    return;
  }
  k_.small_gemm({.a = static_cast<const float*>(left.data),
                 .a_stride = left.stride,
                 .b = right.data,
                 .b_stride = right.stride,
                 .element = Element::f32,
                 .c = result.c,
                 .c_stride = result.stride,
                 .rows = rows,
                 .cols = cols,
                 .depth = depth,
                 .accumulate = result.accumulate});
}

}  // namespace bumblebee::cpu
