// The operations of recurrent layers in the reference: loops around delta_math.h.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "backend/ops.h"
#include "backend/ref/delta_math.h"
#include "backend/ref/ref_kv.h"
#include "backend/ref/ref_tensor.h"

namespace bumblebee::ref {

inline void split_columns(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  const int group = split.group_cols();
  BB_CHECK(group * split.groups == x.cols(), "cols ", x.cols());
  std::vector<int> cols(y.size(), 0);
  for (const SplitParams::Piece& piece : split.pieces) cols.at(size_t(piece.to)) += piece.cols * split.groups;
  for (size_t i = 0; i < y.size(); ++i) y[i] = make_tensor(x.rows(), cols[i]);
  std::vector<int> next(y.size(), 0);
  int first = 0;
  for (const SplitParams::Piece& piece : split.pieces) {
    for (int g = 0; g < split.groups; ++g) {
      for (int r = 0; r < x.rows(); ++r) {
        std::copy_n(row(x, r).begin() + g * group + first, piece.cols,
                    row(y[size_t(piece.to)], r).begin() + next[size_t(piece.to)]);
      }
      next[size_t(piece.to)] += piece.cols;
    }
    first += piece.cols;
  }
}

inline Tensor causal_conv(const Batch& batch, RefKv& kv, int layer, const Tensor& x, const ConvParams& conv) {
  const size_t kernel = size_t(conv.w.rows()), cols = size_t(x.cols());
  Tensor y = make_tensor(x.rows(), x.cols());
  std::vector<double> in(kernel), w(kernel);
  for (const Segment& s : batch.segments) {
    const std::span<double> kept = kv.conv(s.state, layer);
    std::vector<double> rows(kept.begin(), kept.end());  // with those of the past
    for (int i = 0; i < s.rows; ++i) rows.insert(rows.end(), row(x, s.first + i).begin(), row(x, s.first + i).end());
    for (size_t i = 0; i < size_t(s.rows); ++i) {
      for (size_t c = 0; c < cols; ++c) {
        for (size_t j = 0; j < kernel; ++j) {
          in[j] = rows[(i + j) * cols + c];
          w[j] = row(conv.w, int(j))[c];
        }
        row(y, s.first + int(i))[c] = convolve<double>(in, w, conv.silu);
      }
    }
    std::copy(rows.end() - int64_t(kept.size()), rows.end(), kept.begin());
  }
  return y;
}

inline Tensor delta_rule(const Batch& batch, RefKv& kv, int layer, const Tensor& qkv, const Tensor& a, const Tensor& b,
                         const DeltaParams& d) {
  Tensor y = make_tensor(qkv.rows(), d.value_cols());
  const size_t dk = size_t(d.key_dim), dv = size_t(d.value_dim), keys = size_t(d.key_cols());
  for (const Segment& s : batch.segments) {
    const std::span<double> states = kv.heads(s.state, layer);
    for (int r = s.first; r < s.first + s.rows; ++r) {
      for (size_t h = 0; h < size_t(d.value_heads); ++h) {
        const size_t key_head = h * size_t(d.key_heads) / size_t(d.value_heads);
        const double decay = delta_decay<double>(row(a, r)[h], row(d.a_log, 0)[h], row(d.dt_bias, 0)[h]);
        delta_rule<double>(row(qkv, r).subspan(key_head * dk, dk), row(qkv, r).subspan(keys + key_head * dk, dk),
                           row(qkv, r).subspan(2 * keys + h * dv, dv), decay, sigmoid(row(b, r)[h]),
                           states.subspan(h * dk * dv, dk * dv), row(y, r).subspan(h * dv, dv));
      }
    }
  }
  return y;
}

}  // namespace bumblebee::ref
