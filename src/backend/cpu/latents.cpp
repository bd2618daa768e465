// Attention with latent keys, of which values are a part. Both lie in a page as they come, [token][feature], and are
// widened to f32 once for all heads: there is one head of keys, and many that ask.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kColumns = 128;  // of a transposed weight that are decoded at once

}  // namespace

const float* CpuOps::latent_scores(const CpuKv& kv, int layer, int head, int page, int tokens, const float* q,
                                   int vectors, const AttentionParams& a, float* wide, float* scores) {
  const int page_size = kv.shape().page_size, dim = a.head_dim;
  const std::byte* keys = kv.keys(page, layer, head);
  const float* rows = reinterpret_cast<const float*>(keys);
  if (kv.element() != Element::f32) {
    k_.widen(keys, tokens * dim, kv.element(), wide);
    rows = wide;
  }
  for (int t = 0; kv.element() == Element::i8 && t < tokens; ++t) {
    const float* scales = kv.key_scales(page, layer, head) + 2 * t;
    float* one = wide + size_t(t) * size_t(dim);
    k_.scale(one, scales[0], a.value_dim);
    k_.scale(one + a.value_dim, scales[1], dim - a.value_dim);
  }
  for (int i = 0; i < vectors; ++i) std::fill_n(scores + size_t(i) * size_t(page_size), tokens, 0.0f);
  for (int k0 = 0; k0 < dim; k0 += kDepthBlock) {
    k_.dot_block({q + k0, size_t(dim)}, vectors, {rows + k0, size_t(dim)}, tokens, std::min(kDepthBlock, dim - k0),
                 scores, size_t(page_size));
  }
  return rows;
}

/// Weights are decoded to f32 in either precision: they are a small part of a model, and rounding a head's few
/// activations would cost more than it saves.
Tensor CpuOps::matmul_heads(const Tensor& x, const Weight& heads, bool transposed, int rest) {
  const int in = transposed ? heads.out : heads.in, out = transposed ? heads.in : heads.out, count = heads.experts;
  BB_CHECK(x.cols() == count * (in + rest), "cols ", x.cols(), " of ", count, " heads");
  Tensor y = memory_->make(x.rows(), count * (out + rest));
  const size_t from_stride = size_t(x.cols()), to_stride = size_t(y.cols());
  const auto from = [&](int head) { return data(x) + size_t(head) * size_t(in + rest); };
  const auto to = [&](int head) { return data(y) + size_t(head) * size_t(out + rest); };
  if (transposed) {
    const int blocks = (out + kColumns - 1) / kColumns;
    threads_.for_each(int64_t{count} * blocks, [&](int64_t i, int thread) {
      const int head = int(i / blocks), first = int(i % blocks) * kColumns, last = std::min(out, first + kColumns);
      float* const panel = scratch(thread, size_t(in) * kColumns).data();
      k_.decode(rows_of(heads, head), 0, in, first, last, panel, kColumns);
      k_.small_gemm({.a = from(head),
                     .a_stride = from_stride,
                     .b = panel,
                     .b_stride = kColumns,
                     .c = to(head) + first,
                     .c_stride = to_stride,
                     .rows = x.rows(),
                     .cols = last - first,
                     .depth = in});
    });
  } else {
    const int pieces = pieces_of(int64_t{count} * out, kRowGrain);
    threads_.run_pieces(pieces, [&](int part, int piece, int thread) {
      partition_.each(
          count, [&](int) { return out; }, {part, piece, pieces}, kRowGrain,
          [&](int head, int first, int last) {
            const WeightRows& w = rows_of(heads, head);
            const FloatRows rows{from(head), from_stride};
            if (x.rows() <= kMatvecRows) {
              k_.matvec(w, first, last, rows, x.rows(), to(head), to_stride);
            } else {
              multiply_panels({.floats = rows, .int8 = {}, .count = x.rows()}, w, to(head), to_stride, first, last,
                              thread);
            }
          });
    });
  }
  if (rest == 0) return y;
  for_rows(x.rows(), count * rest, [&](int r) {
    for (int h = 0; h < count; ++h)
      std::copy_n(from(h) + size_t(r) * from_stride + in, rest, to(h) + size_t(r) * to_stride + out);
  });
  return y;
}

}  // namespace bumblebee::cpu
