// Derivatives that work row by row, and the elementwise helpers of a tape.
#include <algorithm>

#include "backend/cpu/grad_ops.h"
#include "backend/dropout.h"

namespace bumblebee::cpu {
namespace {

constexpr int64_t kMaskGrain = 128;  // elements that share counters (backend/dropout.h)

}  // namespace

Tensor CpuGradOps::rms_norm_dx(const Tensor& dy, const Tensor& x, const NormParams& norm) {
  const int width = norm.w.cols();
  BB_CHECK(x.cols() % width == 0 && dy.rows() == x.rows() && dy.cols() == x.cols(), "cols ", x.cols());
  Tensor dx = ops_.memory_->make(x.rows(), x.cols());
  ops_.for_rows(x.rows(), x.cols(), [&](int r) {
    for (int c = 0; c < x.cols(); c += width)
      k_.rms_norm_dx(row(dy, r) + c, row(x, r) + c, data(norm.w), norm.eps, width, row(dx, r) + c);
  });
  return dx;
}

void CpuGradOps::rotate_back(Tensor& d, const Tensor& x, int head_dim, const NormParams* norm, bool interleaved,
                             const CpuOps::RopeTable& table) {
  ops_.forget_quantized(d);
  d = ops_.make_writable(d);
  const int half = int(table.rope.inv_freq.size());
  const auto rotate = interleaved ? CpuOps::rotate_pairs : k_.rotate;
  ops_.for_rows(d.rows(), d.cols(), [&](int r) {
    const float* cos = table.cos.data() + size_t(r) * size_t(half);
    const float* sin = table.negative_sin.data() + size_t(r) * size_t(half);
    for (int c = 0; c < d.cols(); c += head_dim) {
      float* head = row(d, r) + c;
      rotate(head, cos, sin, half);
      if (norm != nullptr) k_.rms_norm_dx(head, row(x, r) + c, data(norm->w), norm->eps, head_dim, head);
    }
  });
}

void CpuGradOps::norm_rope_dx(Tensor& dq, Tensor& dk, const Tensor& q, const Tensor& k, int head_dim,
                              const NormParams* q_norm, const NormParams* k_norm, const RopeParams& rope) {
  BB_CHECK(rope.first == 0, "a rotation without a derivative");
  CpuOps::RopeTable& table = ops_.rope_table(rope);
  if (table.negative_sin.empty()) {
    for (const float s : table.sin) table.negative_sin.push_back(-s);
  }
  if (rope.query_growth != 0) {
    ops_.forget_quantized(dq);
    dq = ops_.make_writable(dq);
    ops_.grow_queries(dq, rope);
  }
  rotate_back(dq, q, head_dim, q_norm, rope.interleaved, table);
  if (dk) rotate_back(dk, k, head_dim, k_norm, rope.interleaved, table);
}

void CpuGradOps::glu_dx(Activation activation, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                        Tensor& dup) {
  dgate = ops_.memory_->make(gate.rows(), gate.cols());
  dup = ops_.memory_->make(up.rows(), up.cols());
  const auto dx = activation == Activation::gelu      ? k_.gelu_mul_dx
                  : activation == Activation::sigmoid ? k_.sigmoid_mul_dx
                                                      : k_.silu_mul_dx;
  ops_.for_rows(dy.rows(), dy.cols(), [&](int r) {
    if (activation == Activation::clamped_silu) {
      k_.clamped_silu_mul_dx(row(dy, r), row(gate, r), row(up, r), kClampLimit, kClampSlope, dy.cols(), row(dgate, r),
                             row(dup, r));
    } else if (activation == Activation::identity) {
      std::copy_n(row(dy, r), dy.cols(), row(dgate, r));
      std::copy_n(row(dy, r), dy.cols(), row(dup, r));
      k_.multiply(row(dgate, r), row(up, r), dy.cols());
      k_.multiply(row(dup, r), row(gate, r), dy.cols());
    } else {
      dx(row(dy, r), row(gate, r), row(up, r), dy.cols(), row(dgate, r), row(dup, r));
    }
  });
}

void CpuGradOps::axpy(float alpha, const Tensor& x, Tensor& y) {
  BB_CHECK(x.rows() == y.rows() && x.cols() == y.cols());
  ops_.forget_quantized(y);
  ops_.for_rows(y.rows(), y.cols(), [&](int r) { k_.add_scaled(row(y, r), row(x, r), alpha, y.cols()); });
}

Tensor CpuGradOps::dropout(const Tensor& x, float p, const DropoutKey& key) {
  const uint32_t threshold = dropout_threshold(p);
  const DropoutMask mask = {.key = key.seed,
                            .counter_high = uint64_t{key.site} << 32 | key.step,
                            .threshold = threshold,
                            .scale = dropout_scale(threshold)};
  Tensor y = ops_.memory_->make(x.rows(), x.cols());
  threads_.for_ranges(int64_t{x.rows()} * x.cols(), kMaskGrain, [&](int64_t first, int64_t last, int) {
    k_.dropout(mask, data(x), uint64_t(first), uint64_t(last), data(y));
  });
  return y;
}

void CpuGradOps::multiply_columns(Tensor& y, const Tensor& factor) {
  BB_CHECK(factor.cols() == y.cols());
  ops_.forget_quantized(y);
  ops_.for_rows(y.rows(), y.cols(), [&](int r) { k_.multiply(row(y, r), data(factor), y.cols()); });
}

void CpuGradOps::add_row(Tensor& y, const Tensor& delta) {
  BB_CHECK(delta.cols() == y.cols());
  ops_.forget_quantized(y);
  ops_.for_rows(y.rows(), y.cols(), [&](int r) { k_.add(row(y, r), data(delta), y.cols()); });
}

Tensor CpuGradOps::column_dots(const Tensor& x, const Tensor& y) {
  BB_CHECK(x.rows() == y.rows() && x.cols() == y.cols());
  Tensor sums = ops_.memory_->make(1, x.cols());
  threads_.for_ranges(x.cols(), 64, [&](int64_t first, int64_t last, int) {
    const int count = int(last - first);
    std::fill_n(data(sums) + first, count, 0.0f);
    for (int r = 0; r < x.rows(); ++r) k_.multiply_add(data(sums) + first, row(x, r) + first, row(y, r) + first, count);
  });
  return sums;
}

}  // namespace bumblebee::cpu
