// Products of gradients with weights, and with low-rank factors. A weight is decoded panel by panel, once for all rows;
// threads divide its columns, so that each column's sum over the weight's rows is formed by one of them.
#include <algorithm>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr int kPanelDepth = 256, kPanelCols = 128;  // bf16: 32 KiB for a tile of columns, half of a first-level cache
constexpr int kFloatDepth = 128;                    // f32: 64 KiB
constexpr int kProductRows = 264;  // rows whose sums stay in a second-level cache, also where rows share its lines
constexpr int kRoundStride = 32;   // further elements: rows a power of two apart would share lines
constexpr int kFewRows = 16;       // of the left operand
constexpr int kFewDepth = 32, kDepth = 128;  // rows of the right operand at a time: with few, streams of memory
constexpr int kBlockFloats = 8192;           // of it that every row of the left one meets in the cache
constexpr int kNarrow = 32;                  // columns below which sixteen lanes are better used along the sum

const WeightRows& rows_of(const Weight& w) { return static_cast<const CpuWeight&>(*w.packed).rows; }

}  // namespace

void CpuGradOps::add_product(const GradRows& dy, const Weight& weight, int k0, int k1, float* y, size_t y_stride,
                             bool accumulate, int thread) {
  const int blocks = (dy.rows + kProductRows - 1) / kProductRows;
  for (int b = 0; b < blocks; ++b) {  // of whole tiles of six
    const int first = (dy.rows + 5) / 6 * b / blocks * 6,
              last = std::min(dy.rows, (dy.rows + 5) / 6 * (b + 1) / blocks * 6);
    GradRows part = dy;
    part.rows = last - first;
    if (dy.bf16 != nullptr) {
      part.bf16 += size_t(first) * dy.stride;
    } else {
      part.f32 += size_t(first) * dy.stride;
    }
    add_block(part, weight, k0, k1, y + size_t(first) * y_stride, y_stride, accumulate, thread);
  }
}

void CpuGradOps::add_block(const GradRows& dy, const Weight& weight, int k0, int k1, float* y, size_t y_stride,
                           bool accumulate, int thread) {
  const WeightRows& w = rows_of(weight);
  const bool bf16 = dy.bf16 != nullptr;
  const int depth = bf16 ? kPanelDepth : kFloatDepth;
  float* panel = ops_.scratch(thread, size_t(kPanelCols) * kFloatDepth).data();
  auto* pairs = reinterpret_cast<uint32_t*>(panel);  // as many: two elements each
  static_assert(kPanelDepth / 2 == kFloatDepth);
  for (int c = k0; c < k1; c += kPanelCols) {
    const int cols = std::min(kPanelCols, k1 - c);
    for (int n = 0; n < weight.out; n += depth) {
      const int last = std::min(n + depth, weight.out);
      if (bf16) {
        k_.decode_pairs(w, n, last, c, c + cols, pairs);
        k_.gemm_bf16({.a = dy.bf16 + n,
                      .a_stride = dy.stride,
                      .b = pairs,
                      .b_tile = size_t(last - n + 1) / 2 * kPairCols,
                      .c = y + c,
                      .c_stride = y_stride,
                      .rows = dy.rows,
                      .cols = cols,
                      .pairs = (last - n + 1) / 2,
                      .accumulate = accumulate || n > 0});
      } else {
        k_.decode(w, n, last, c, c + cols, panel, kPanelCols);
        k_.small_gemm({.a = dy.f32 + n,
                       .a_stride = dy.stride,
                       .b = panel,
                       .b_stride = kPanelCols,
                       .element = Element::f32,
                       .c = y + c,
                       .c_stride = y_stride,
                       .rows = dy.rows,
                       .cols = cols,
                       .depth = last - n,
                       .accumulate = accumulate || n > 0});
      }
    }
  }
}

Tensor CpuGradOps::matmul_dx(std::span<const Tensor> dy, std::span<const Weight* const> weights) {
  BB_CHECK(dy.size() == weights.size() && !dy.empty());
  const int rows = dy[0].rows(), in = weights[0]->in;
  size_t size = 0;
  std::vector<GradRows> grad_rows(dy.size());
  for (size_t t = 0; t < dy.size(); ++t) {
    BB_CHECK(weights[t]->in == in && weights[t]->out == dy[t].cols() && dy[t].rows() == rows, "term ", t);
    grad_rows[t] = {.f32 = data(dy[t]), .bf16 = nullptr, .stride = size_t(dy[t].cols()), .rows = rows};
    size += size_t(rows) * (size_t(dy[t].cols()) + 2 * kRoundStride);
  }
  Tensor rounded;
  if (uses_bf16()) {
    rounded = ops_.memory_->make(1, int(size / 2 + 1));
    auto* at = reinterpret_cast<uint16_t*>(data(rounded));
    for (size_t t = 0; t < dy.size(); ++t) {
      const size_t out = size_t(dy[t].cols()),
                   stride = (out + kRoundStride - 1) / kRoundStride * kRoundStride + kRoundStride;
      ops_.for_rows(rows, int(out), [&](int r) {
        uint16_t* to = at + size_t(r) * stride;
        k_.round_bf16(row(dy[t], r), int(out), to);
        to[out] = 0;
      });
      grad_rows[t] = {.f32 = nullptr, .bf16 = at, .stride = stride, .rows = rows};
      at += size_t(rows) * stride;
    }
  }
  Tensor dx = ops_.memory_->make(rows, in);
  threads_.for_ranges(in, column_grain(), [&](int64_t first, int64_t last, int thread) {
    for (size_t t = 0; t < dy.size(); ++t)
      add_product(grad_rows[t], *weights[t], int(first), int(last), data(dx), size_t(in), t > 0, thread);
  });
  return dx;
}

CpuGradOps::Matrix CpuGradOps::view(const Tensor& t) { return {data(t), size_t(t.cols()), t.rows(), t.cols(), t}; }

CpuGradOps::Matrix CpuGradOps::copy(const Matrix& m, bool transposed, float factor) {
  Matrix result = view(transposed ? ops_.memory_->make(m.cols, m.rows) : ops_.memory_->make(m.rows, m.cols));
  const size_t row_step = transposed ? 1 : result.stride, col_step = transposed ? result.stride : 1;
  constexpr int kTile = 16;  // of both, so that lines of both stay in the cache
  threads_.for_ranges(m.rows, kTile, [&](int64_t first, int64_t last, int) {
    for (int r0 = int(first); r0 < int(last); r0 += kTile) {
      const int r1 = std::min(r0 + kTile, int(last));
      for (int c0 = 0; c0 < m.cols; c0 += kTile) {
        const int c1 = std::min(c0 + kTile, m.cols);
        for (int r = r0; r < r1; ++r) {
          const float* from = m.data + size_t(r) * m.stride;
          float* to = result.data + size_t(r) * row_step;
          for (int c = c0; c < c1; ++c) to[size_t(c) * col_step] = factor * from[c];
        }
      }
    }
  });
  return result;
}

void CpuGradOps::scale_or_clear(const Matrix& c, float beta) {
  if (beta == 1) return;
  ops_.for_rows(c.rows, c.cols, [&](int r) {
    float* at = c.data + size_t(r) * c.stride;
    if (beta == 0) {
      std::fill_n(at, c.cols, 0.0f);
    } else {
      k_.scale(at, beta, c.cols);
    }
  });
}

/// c = a·b, or += : lanes run along the columns of b.
void CpuGradOps::multiply_wide(const Matrix& a, const Matrix& b, const Matrix& c, bool accumulate) {
  const auto part = [&](int row0, int row1, int col0, int col1) {
    const int block = c.rows <= kFewRows ? kFewDepth : kDepth;
    for (int k = 0; k < a.cols; k += block) {
      const int depth = std::min(block, a.cols - k), step = std::max(64, kBlockFloats / depth / 64 * 64);
      for (int col = col0; col < col1; col += step) {
        k_.small_gemm({.a = a.data + size_t(row0) * a.stride + k,
                       .a_stride = a.stride,
                       .b = b.data + size_t(k) * b.stride + col,
                       .b_stride = b.stride,
                       .element = Element::f32,
                       .c = c.data + size_t(row0) * c.stride + col,
                       .c_stride = c.stride,
                       .rows = row1 - row0,
                       .cols = std::min(step, col1 - col),
                       .depth = depth,
                       .accumulate = accumulate || k > 0});
      }
    }
  };
  if (c.cols > c.rows) {
    threads_.for_ranges(c.cols, 64, [&](int64_t first, int64_t last, int) { part(0, c.rows, int(first), int(last)); });
  } else {
    threads_.for_ranges(c.rows, 6, [&](int64_t first, int64_t last, int) { part(int(first), int(last), 0, c.cols); });
  }
}

/// c += a·bᵀ: lanes run along the sum.
void CpuGradOps::multiply_by_dots(const Matrix& a, const Matrix& b, const Matrix& c) {
  threads_.for_ranges(c.rows, 12, [&](int64_t first, int64_t last, int) {
    for (int k = 0; k < a.cols; k += kDepthBlock) {
      k_.dot_block({a.data + size_t(first) * a.stride + k, a.stride}, int(last - first), {b.data + k, b.stride}, b.rows,
                   std::min(kDepthBlock, a.cols - k), c.data + size_t(first) * c.stride, c.stride);
    }
  });
}

/// Small factors are transposed as the kernels want them, and alpha goes into the smaller operand; the wide operand,
/// which holds a row for each token, is read as it lies.
void CpuGradOps::gemm(float alpha, const Tensor& a_in, Op op_a, const Tensor& b_in, Op op_b, float beta, Tensor& c_in) {
  Matrix a = view(a_in), b = view(b_in);
  bool a_transposed = op_a == Op::transposed, b_transposed = op_b == Op::transposed;
  const int m = a_transposed ? a.cols : a.rows, depth = a_transposed ? a.rows : a.cols,
            n = b_transposed ? b.rows : b.cols;
  BB_CHECK(depth == (b_transposed ? b.cols : b.rows), "depth ", depth);
  if (!c_in && beta == 0) c_in = ops_.memory_->make(m, n);
  BB_CHECK(c_in && c_in.rows() == m && c_in.cols() == n, "c [", c_in.rows(), ", ", c_in.cols(), "], expected [", m,
           ", ", n, "]");
  ops_.forget_quantized(c_in);
  const Matrix c = view(c_in);
  if (m == 0 || n == 0) return;
  if (depth == 0) return scale_or_clear(c, beta);

  if (a_transposed && m >= n) {  // cᵀ = op(b)ᵀ·a, for a with a row for each token
    const Matrix b_t = b_transposed && alpha == 1 ? b : copy(b, !b_transposed, alpha);
    const Matrix c_t = view(ops_.memory_->make(n, m));
    multiply_wide(b_t, a, c_t, false);
    threads_.for_ranges(m, 16, [&](int64_t first, int64_t last, int) {
      for (int r = int(first); r < int(last); ++r) {
        float* to = c.data + size_t(r) * c.stride;
        for (int i = 0; i < n; ++i)
          to[i] = c_t.data[size_t(i) * c_t.stride + size_t(r)] + (beta == 0 ? 0.0f : beta * to[i]);
      }
    });
    return;
  }
  const bool scale_a = m <= n;
  if (a_transposed || (scale_a && alpha != 1)) a = copy(a, a_transposed, scale_a ? alpha : 1);
  const float b_factor = scale_a ? 1 : alpha;
  const bool by_dots = b_transposed ? depth >= 4 * kNarrow : n < kNarrow;
  if (b_transposed != by_dots || b_factor != 1) b = copy(b, b_transposed != by_dots, b_factor);
  if (by_dots) {
    scale_or_clear(c, beta);
    multiply_by_dots(a, b, c);
  } else {
    if (beta != 0) scale_or_clear(c, beta);
    multiply_wide(a, b, c, beta != 0);
  }
}

Tensor CpuGradOps::row_lengths(const Weight& weight, const Tensor& a, const Tensor& b, float scale) {
  BB_CHECK(a.cols() == weight.in && b.rows() == weight.out && b.cols() == a.rows());
  constexpr int kRows = 48;
  const WeightRows& w = rows_of(weight);
  const size_t in = size_t(weight.in);
  const Matrix scaled = copy(view(b), false, scale);
  Tensor lengths = ops_.memory_->make(1, weight.out);
  threads_.for_ranges(weight.out, kRows, [&](int64_t first, int64_t last, int thread) {
    float* panel = ops_.scratch(thread, kRows * in).data();
    for (int n = int(first); n < int(last); n += kRows) {
      const int rows = std::min(kRows, int(last) - n);
      k_.decode(w, n, n + rows, 0, w.in, panel, in);
      k_.small_gemm({.a = scaled.data + size_t(n) * scaled.stride,
                     .a_stride = scaled.stride,
                     .b = data(a),
                     .b_stride = in,
                     .element = Element::f32,
                     .c = panel,
                     .c_stride = in,
                     .rows = rows,
                     .cols = w.in,
                     .depth = a.rows(),
                     .accumulate = true});
      for (int r = 0; r < rows; ++r) {
        const float* values = panel + size_t(r) * in;
        data(lengths)[n + r] = std::sqrt(k_.dot(values, values, w.in));
      }
    }
  });
  return lengths;
}

}  // namespace bumblebee::cpu
