// Recurrent layers. A head's state is cut into stripes of columns, which depend on no other: whoever takes one goes
// through all rows of a segment with it, so that it is read and written once however long a prompt is, and a row's
// arithmetic is the same wherever a prompt was cut (docs/internals/delta-rule.md).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_ops.h"

namespace bumblebee::cpu {
namespace {

constexpr size_t kMostKernel = 16;  // of a convolution
constexpr float kDeltaEps = 1e-6f;  // added to a sum of squares before its root

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

}  // namespace

void CpuOps::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  const int group = split.group_cols();
  BB_CHECK(group * split.groups == x.cols(), "cols ", x.cols(), " of ", split.groups, " groups of ", group);
  std::vector<int> cols(y.size(), 0);
  for (const SplitParams::Piece& piece : split.pieces) cols.at(size_t(piece.to)) += piece.cols * split.groups;
  for (size_t i = 0; i < y.size(); ++i) y[i] = memory_->make(x.rows(), cols[i]);
  for_rows(x.rows(), x.cols(), [&](int r) {
    std::array<float*, 4> to{};
    BB_CHECK(y.size() <= to.size());
    for (size_t i = 0; i < y.size(); ++i) to[i] = row(y[i], r);
    const float* from = row(x, r);
    for (const SplitParams::Piece& piece : split.pieces) {
      float*& at = to[size_t(piece.to)];
      for (int g = 0; g < split.groups; ++g, at += piece.cols) std::copy_n(from + g * group, piece.cols, at);
      from += piece.cols;
    }
  });
}

Tensor CpuOps::causal_conv(KvStore& store, int layer, const Tensor& x, const ConvParams& conv) {
  auto& kv = static_cast<CpuKv&>(store);
  const int kernel = conv.w.rows(), past = kernel - 1, cols = x.cols();
  BB_CHECK(size_t(kernel) <= kMostKernel, "kernel ", kernel);
  Tensor y = memory_->make(x.rows(), cols);
  const std::vector<float> nothing(size_t(cols), 0.0f);
  std::vector<const float*> before(batch_.segments.size() * size_t(past));  // [segments, past] rows
  std::vector<int> segment_of(size_t(x.rows()), -1);
  for (size_t s = 0; s < batch_.segments.size(); ++s) {
    const Segment& segment = batch_.segments[s];
    kv.touch_state(segment.state.to);
    const float* const kept = segment.state.from < 0 ? nullptr : kv.conv(segment.state.from, layer);
    for (int j = 0; j < past; ++j)
      before[s * size_t(past) + size_t(j)] = kept != nullptr ? kept + size_t(j) * size_t(cols) : nothing.data();
    std::fill_n(segment_of.begin() + segment.first, segment.rows, int(s));
  }
  // The row `back` rows before row i of a segment.
  const auto input = [&](size_t s, int i, int back) {
    const Segment& segment = batch_.segments[s];
    return i >= back ? row(x, segment.first + i - back) : before[s * size_t(past) + size_t(past + i - back)];
  };
  for_rows(x.rows(), cols * kernel, [&](int r) {
    if (segment_of[size_t(r)] < 0) {  // padding
      std::fill_n(row(y, r), cols, 0.0f);
      return;
    }
    const size_t s = size_t(segment_of[size_t(r)]);
    std::array<const float*, kMostKernel> rows{};
    for (int j = 0; j < kernel; ++j) rows[size_t(j)] = input(s, r - batch_.segments[s].first, past - j);
    const auto convolve = conv.silu ? k_.convolve_silu : k_.convolve;
    convolve(rows.data(), data(conv.w), size_t(cols), kernel, cols, row(y, r));
  });
  // The oldest first: a state that goes on in place moves towards its beginning.
  for (size_t s = 0; s < batch_.segments.size(); ++s) {
    const Segment& segment = batch_.segments[s];
    float* const kept = kv.conv(segment.state.to, layer);
    for (int j = 0; j < past; ++j)
      std::memmove(kept + size_t(j) * size_t(cols), input(s, segment.rows, past - j), size_t(cols) * sizeof(float));
  }
  return y;
}

/// Keys and queries of length one (queries divided by the root of key_dim as well), their products, decay and beta of
/// each row, head by head: a stripe reads what its head has of all rows, and rows of the model's width apart would fall
/// on the same few lines of the caches, each in a page of its own.
struct CpuOps::DeltaRows {
  Tensor qk;     // [key_heads·rows, 2·key_dim]
  Tensor meet;   // [key_heads, rows]
  Tensor gates;  // [value_heads·rows, 2]
  int rows = 0;
  float* qk_of(int key_head, int r) const { return row(qk, key_head * rows + r); }
  float* gates_of(int head, int r) const { return row(gates, head * rows + r); }
};

CpuOps::DeltaRows CpuOps::delta_rows(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& d) {
  const int dim = d.key_dim, keys = d.key_cols(), heads = d.value_heads;
  DeltaRows rows{memory_->make(d.key_heads * qkv.rows(), 2 * dim), memory_->make(d.key_heads, qkv.rows()),
                 memory_->make(heads * qkv.rows(), 2), qkv.rows()};
  std::vector<double> rate;
  for (int h = 0; h < heads; ++h) rate.push_back(std::exp(double(data(d.a_log)[h])));
  const float scale = float(1 / std::sqrt(double(dim)));
  for_rows(qkv.rows(), 2 * keys + 64 * heads, [&](int r) {
    for (int h = 0; h < d.key_heads; ++h) {
      float *const q = rows.qk_of(h, r), *const k = q + dim;
      std::copy_n(row(qkv, r) + h * dim, dim, q);
      std::copy_n(row(qkv, r) + keys + h * dim, dim, k);
      k_.scale(q, scale / std::sqrt(k_.dot(q, q, dim) + kDeltaEps), dim);
      k_.scale(k, 1 / std::sqrt(k_.dot(k, k, dim) + kDeltaEps), dim);
      row(rows.meet, h)[r] = k_.dot(q, k, dim);
    }
    for (int h = 0; h < heads; ++h) {
      const double open = double(row(a, r)[h]) + double(data(d.dt_bias)[h]);
      float* const gates = rows.gates_of(h, r);
      gates[0] = float(std::exp(-rate[size_t(h)] * softplus(open)));
      gates[1] = float(1 / (1 + std::exp(-double(row(b, r)[h]))));
    }
  });
  return rows;
}

Tensor CpuOps::delta_rule(KvStore& store, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                          const DeltaParams& d) {
  auto& kv = static_cast<CpuKv&>(store);
  const DeltaRows rows = delta_rows(qkv, a, b, d);
  Tensor y = memory_->make(qkv.rows(), d.value_cols());
  for (int r = y.rows() - batch_.padding; r < y.rows(); ++r) std::fill_n(row(y, r), y.cols(), 0.0f);
  for (const Segment& segment : batch_.segments) kv.touch_state(segment.state.to);
  const int stripes = kv.stripes(), each = d.value_heads * stripes;
  threads_.for_each(int64_t(batch_.segments.size()) * each, [&](int64_t task, int) {
    const Segment& s = batch_.segments[size_t(task / each)];
    const int head = int(task % each) / stripes, stripe = int(task % stripes), first = stripe * kDeltaCols;
    const int key_head = head * d.key_heads / d.value_heads, column = head * d.value_dim + first;
    k_.delta_rule({.q = rows.qk_of(key_head, s.first),
                   .k = rows.qk_of(key_head, s.first) + d.key_dim,
                   .key_stride = size_t(rows.qk.cols()),
                   .v = row(qkv, s.first) + 2 * d.key_cols() + column,
                   .v_stride = size_t(qkv.cols()),
                   .decay = rows.gates_of(head, s.first),
                   .beta = rows.gates_of(head, s.first) + 1,
                   .gate_stride = size_t(rows.gates.cols()),
                   .meet = row(rows.meet, key_head) + s.first,
                   .meet_stride = 1,
                   .from = s.state.from < 0 ? nullptr : kv.stripe(s.state.from, layer, head, stripe),
                   .to = kv.stripe(s.state.to, layer, head, stripe),
                   .out = row(y, s.first) + column,
                   .out_stride = size_t(y.cols()),
                   .rows = s.rows,
                   .key_dim = d.key_dim,
                   .cols = std::min(kDeltaCols, d.value_dim - first)});
  });
  return y;
}

}  // namespace bumblebee::cpu
