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
  std::vector<float> nothing;                                               // before a sequence's first row
  std::vector<const float*> before(batch_.segments.size() * size_t(past));  // [segments, past] rows
  std::vector<int> segment_of(size_t(x.rows()), -1);
  for (size_t s = 0; s < batch_.segments.size(); ++s) {
    const Segment& segment = batch_.segments[s];
    kv.touch_state(segment.state.to);
    const float* const kept = segment.state.from < 0 ? nullptr : kv.conv(segment.state.from, layer);
    if (kept == nullptr) nothing.resize(size_t(cols), 0.0f);
    for (int j = 0; j < past; ++j)
      before[s * size_t(past) + size_t(j)] = kept != nullptr ? kept + size_t(j) * size_t(cols) : nothing.data();
    std::fill_n(segment_of.begin() + segment.first, segment.rows, int(s));
  }
  // The row `back` rows before row i of a segment.
  const auto input = [&](size_t s, int i, int back) {
    const Segment& segment = batch_.segments[s];
    return i >= back ? row(x, segment.first + i - back) : before[s * size_t(past) + size_t(past + i - back)];
  };
  const auto convolve = conv.silu ? k_.convolve_silu : k_.convolve;
  // A column depends on no other: whoever takes some goes through all rows with them and then keeps their last inputs.
  for_cols(x.rows() * kernel, cols, [&](int first, int last) {
    for (int r = 0; r < x.rows(); ++r) {
      if (segment_of[size_t(r)] < 0) {  // padding
        std::fill_n(row(y, r) + first, last - first, 0.0f);
        continue;
      }
      const size_t s = size_t(segment_of[size_t(r)]);
      std::array<const float*, kMostKernel> rows{};
      for (int j = 0; j < kernel; ++j) rows[size_t(j)] = input(s, r - batch_.segments[s].first, past - j) + first;
      convolve(rows.data(), data(conv.w) + first, size_t(cols), kernel, last - first, row(y, r) + first);
    }
    // The oldest first: a state that goes on in place moves towards its beginning.
    for (size_t s = 0; s < batch_.segments.size(); ++s) {
      const Segment& segment = batch_.segments[s];
      float* const kept = kv.conv(segment.state.to, layer) + first;
      for (int j = 0; j < past; ++j)
        std::memmove(kept + size_t(j) * size_t(cols), input(s, segment.rows, past - j) + first,
                     size_t(last - first) * sizeof(float));
    }
  });
  return y;
}

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

DeltaRule CpuOps::delta_stripe(const DeltaRows& rows, const Tensor& qkv, const Tensor& y, const DeltaParams& d,
                               const Segment& s, int head, int first) {
  const int key_head = head * d.key_heads / d.value_heads, column = head * d.value_dim + first;
  DeltaRule rule;
  rule.q = rows.qk_of(key_head, s.first);
  rule.k = rule.q + d.key_dim;
  rule.key_stride = size_t(rows.qk.cols());
  rule.v = row(qkv, s.first) + 2 * d.key_cols() + column;
  rule.v_stride = size_t(qkv.cols());
  rule.decay = rows.gates_of(head, s.first);
  rule.beta = rule.decay + 1;
  rule.gate_stride = size_t(rows.gates.cols());
  rule.meet = row(rows.meet, key_head) + s.first;
  rule.meet_stride = 1;
  rule.out = row(y, s.first) + column;
  rule.out_stride = size_t(y.cols());
  rule.rows = s.rows;
  rule.key_dim = d.key_dim;
  rule.cols = std::min(kDeltaCols, d.value_dim - first);
  return rule;
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
    const int head = int(task % each) / stripes, stripe = int(task % stripes);
    DeltaRule rule = delta_stripe(rows, qkv, y, d, s, head, stripe * kDeltaCols);
    rule.from = s.state.from < 0 ? nullptr : kv.stripe(s.state.from, layer, head, stripe);
    rule.to = kv.stripe(s.state.to, layer, head, stripe);
    k_.delta_rule(rule);
  });
  return y;
}

}  // namespace bumblebee::cpu
