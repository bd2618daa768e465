// Derivatives of recurrent layers. On the way back a head goes through a sequence three times: forward to the states at
// the borders of chunks, forward within a chunk, whose states are kept, and back through it. A task is one key head of
// one segment with its value heads in turn, so that nobody else adds to its gradients.
#include <algorithm>
#include <array>
#include <cmath>

#include "backend/cpu/grad_ops.h"

namespace bumblebee::cpu {
namespace {

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

std::vector<int> CpuGradOps::beginnings(int rows) const {
  std::vector<int> first(size_t(rows), 0);
  for (const Segment& s : ops_.batch_.segments) {
    BB_CHECK(s.past == 0, "past ", s.past);
    std::fill_n(first.begin() + s.first, s.rows, s.first);
  }
  return first;
}

Tensor CpuGradOps::conv_packed(const Tensor& x, const ConvParams& conv) {
  const int kernel = conv.w.rows(), cols = x.cols();
  BB_CHECK(size_t(kernel) <= kMostKernel, "kernel ", kernel);
  const std::vector<int> first = beginnings(x.rows());
  const std::vector<float> nothing(size_t(cols), 0.0f);
  Tensor y = ops_.memory_->make(x.rows(), cols);
  ops_.for_rows(x.rows(), cols * kernel, [&](int r) {
    std::array<const float*, kMostKernel> in{};
    for (int j = 0, from = r - kernel + 1; j < kernel; ++j, ++from)
      in[size_t(j)] = from >= first[size_t(r)] ? row(x, from) : nothing.data();
    const auto convolve = conv.silu ? k_.convolve_silu : k_.convolve;
    convolve(in.data(), data(conv.w), size_t(cols), kernel, cols, row(y, r));
  });
  return y;
}

Tensor CpuGradOps::conv_packed_dx(const Tensor& dy, const Tensor& x, const ConvParams& conv) {
  const int kernel = conv.w.rows(), cols = x.cols(), rows = x.rows();
  BB_CHECK(size_t(kernel) <= kMostKernel, "kernel ", kernel);
  const std::vector<int> first = beginnings(rows);
  const std::vector<float> nothing(size_t(cols), 0.0f);
  const Tensor slopes = conv.silu ? ops_.memory_->make(rows, cols) : dy;
  Tensor dx = ops_.memory_->make(rows, cols);
  ops_.for_rows(conv.silu ? rows : 0, cols * kernel, [&](int r) {
    std::array<const float*, kMostKernel> in{};
    for (int j = 0, from = r - kernel + 1; j < kernel; ++j, ++from)
      in[size_t(j)] = from >= first[size_t(r)] ? row(x, from) : nothing.data();
    k_.convolve_slope(in.data(), data(conv.w), size_t(cols), kernel, cols, row(dy, r), row(slopes, r));
  });
  ops_.for_rows(rows, cols * kernel, [&](int r) {
    std::fill_n(row(dx, r), cols, 0.0f);
    for (int j = kernel - 1, to = r; j >= 0; --j, ++to) {
      if (to < rows && first[size_t(to)] == first[size_t(r)])
        k_.multiply_add(row(dx, r), row(conv.w, j), row(slopes, to), cols);
    }
  });
  return dx;
}

Tensor CpuGradOps::delta_packed(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& d) {
  beginnings(qkv.rows());
  const CpuOps::DeltaRows rows = ops_.delta_rows(qkv, a, b, d);
  Tensor y = ops_.memory_->make(qkv.rows(), d.value_cols());
  const int stripes = (d.value_dim + kDeltaCols - 1) / kDeltaCols, each = d.value_heads * stripes;
  threads_.for_each(int64_t(ops_.batch_.segments.size()) * each, [&](int64_t task, int thread) {
    const Segment& s = ops_.batch_.segments[size_t(task / each)];
    DeltaRule rule =
        CpuOps::delta_stripe(rows, qkv, y, d, s, int(task % each) / stripes, int(task % stripes) * kDeltaCols);
    rule.to = ops_.scratch(thread, size_t(d.key_dim) * size_t(kDeltaCols)).data();
    k_.delta_rule(rule);
  });
  return y;
}

/// What the tasks of the way back share.
struct CpuGradOps::DeltaSlopes {
  const DeltaParams& d;
  const CpuOps::DeltaRows& rows;
  const Tensor &dout, &qkv, &a, &b;
  const Tensor &dqkv, &da, &db;
};

/// Of one value head; those of keys and queries, as they are of length one, are set by the first of a key head's value
/// heads and added to by the others.
void CpuGradOps::delta_slopes(const DeltaSlopes& work, const Segment& s, int head, int thread) {
  const DeltaParams& d = work.d;
  const int dim = d.key_dim, width = d.value_dim, cols = int(up_to(width, 16)), group = d.value_heads / d.key_heads;
  const int key_column = head / group * dim, value_column = 2 * d.key_cols() + head * width;
  const size_t state = size_t(dim) * size_t(cols), chunks = size_t((s.rows + kDeltaChunk - 1) / kDeltaChunk);
  const size_t inner = size_t(std::min(kDeltaChunk, s.rows));
  float* room =
      ops_.scratch(thread, (chunks + inner + 1) * state + (inner + 3) * size_t(cols) + 2 * up_to(dim, 16)).data();
  const auto take = [&](size_t floats) { return std::exchange(room, room + floats); };
  // States at the borders of chunks, those within one, and the gradient of the latest.
  float *const borders = take(chunks * state), *const within = take(inner * state), *const dstate = take(state);
  float *const missing = take(inner * size_t(cols)), *const v = take(size_t(cols)), *const dout = take(size_t(cols)),
               *const dv = take(size_t(cols)), *const dq = take(up_to(dim, 16)), *const dk = take(up_to(dim, 16));
  std::fill_n(v, cols, 0.0f);
  std::fill_n(dout, cols, 0.0f);
  const auto step = [&](int i, const float* from, float* to, float* known) {
    const int r = s.first + i;
    std::copy_n(row(work.qkv, r) + value_column, width, v);
    const float* const gates = work.rows.gates_of(head, r);
    k_.delta_step({.k = work.rows.qk_of(head / group, r) + dim,
                   .v = v,
                   .decay = gates[0],
                   .beta = gates[1],
                   .from = from,
                   .to = to,
                   .missing = known,
                   .key_dim = dim,
                   .cols = cols});
  };
  std::fill_n(borders, state, 0.0f);
  for (int i = 0; i < int(chunks - 1) * kDeltaChunk; ++i) {
    float* const to = borders + size_t(i / kDeltaChunk + 1) * state;
    step(i, i % kDeltaChunk == 0 ? to - state : to, to, missing);
  }
  std::fill_n(dstate, state, 0.0f);
  const double rate = std::exp(double(data(d.a_log)[head]));
  for (int first = int(chunks - 1) * kDeltaChunk; first >= 0; first -= kDeltaChunk) {
    const int rows = std::min(kDeltaChunk, s.rows - first);
    // The state that row i finds; what the last one leaves is of no use.
    const auto found = [&](int i) {
      return i == 0 ? borders + size_t(first / kDeltaChunk) * state : within + size_t(i - 1) * state;
    };
    for (int i = 0; i < rows; ++i)
      step(first + i, found(i), within + size_t(i) * state, missing + size_t(i) * size_t(cols));
    for (int i = rows - 1; i >= 0; --i) {
      const int r = s.first + first + i;
      std::copy_n(row(work.dout, r) + head * width, width, dout);
      const float* const q = work.rows.qk_of(head / group, r);
      const float decay = work.rows.gates_of(head, r)[0], beta = work.rows.gates_of(head, r)[1];
      const DeltaGates gates = k_.delta_step_dx({.q = q,
                                                 .k = q + dim,
                                                 .dout = dout,
                                                 .missing = missing + size_t(i) * size_t(cols),
                                                 .from = found(i),
                                                 .decay = decay,
                                                 .beta = beta,
                                                 .dstate = dstate,
                                                 .dq = dq,
                                                 .dk = dk,
                                                 .dv = dv,
                                                 .key_dim = dim,
                                                 .cols = cols});
      float* const own = row(work.dqkv, r);
      std::copy_n(dv, width, own + value_column);
      if (head % group == 0) {
        std::copy_n(dq, dim, own + key_column);
        std::copy_n(dk, dim, own + d.key_cols() + key_column);
      } else {
        k_.add(own + key_column, dq, dim);
        k_.add(own + d.key_cols() + key_column, dk, dim);
      }
      const double open = double(row(work.a, r)[head]) + double(data(d.dt_bias)[head]),
                   by_b = double(row(work.b, r)[head]);
      row(work.da, r)[head] = float(double(gates.decay) * -double(decay) * rate * sigmoid_of(open));
      row(work.db, r)[head] = float(double(gates.beta) * sigmoid_of(by_b) * sigmoid_of(-by_b));
    }
  }
}

void CpuGradOps::delta_packed_dx(const Tensor& dout, const Tensor& qkv, const Tensor& a, const Tensor& b,
                                 const DeltaParams& d, Tensor& dqkv, Tensor& da, Tensor& db) {
  beginnings(qkv.rows());
  const CpuOps::DeltaRows rows = ops_.delta_rows(qkv, a, b, d);
  dqkv = ops_.memory_->make(qkv.rows(), qkv.cols());
  da = ops_.memory_->make(a.rows(), a.cols());
  db = ops_.memory_->make(b.rows(), b.cols());
  const DeltaSlopes work = {d, rows, dout, qkv, a, b, dqkv, da, db};
  const int group = d.value_heads / d.key_heads;
  threads_.for_each(int64_t(ops_.batch_.segments.size()) * d.key_heads, [&](int64_t task, int thread) {
    const Segment& s = ops_.batch_.segments[size_t(task / d.key_heads)];
    const int first = int(task % d.key_heads) * group;
    for (int head = first; head < first + group; ++head) delta_slopes(work, s, head, thread);
  });
  // x became y = scale·x/|x|: dx = scale/|x|·(dy - x·(x·dy)/|x|²).
  const float root = float(1 / std::sqrt(double(d.key_dim)));
  ops_.for_rows(qkv.rows(), 2 * d.key_cols(), [&](int r) {
    for (int c = 0; c < 2 * d.key_cols(); c += d.key_dim) {
      const float* const x = row(qkv, r) + c;
      float* const dx = row(dqkv, r) + c;
      const float squares = k_.dot(x, x, d.key_dim) + kDeltaEps;
      k_.add_scaled(dx, x, -k_.dot(x, dx, d.key_dim) / squares, d.key_dim);
      k_.scale(dx, (c < d.key_cols() ? root : 1.0f) / std::sqrt(squares), d.key_dim);
    }
  });
}

Tensor CpuGradOps::split_dx(std::span<const Tensor> dy, const SplitParams& split) {
  const int group = split.group_cols();
  int rows = 0;
  for (const Tensor& t : dy) rows = std::max(rows, t ? t.rows() : 0);
  Tensor dx = ops_.memory_->make(rows, group * split.groups);
  ops_.for_rows(rows, dx.cols(), [&](int r) {
    std::array<const float*, 4> from{};
    BB_CHECK(dy.size() <= from.size());
    for (size_t i = 0; i < dy.size(); ++i) from[i] = dy[i] ? row(dy[i], r) : nullptr;
    float* to = row(dx, r);
    for (const SplitParams::Piece& piece : split.pieces) {
      const float*& at = from[size_t(piece.to)];
      for (int g = 0; g < split.groups; ++g) {
        if (at == nullptr) {
          std::fill_n(to + g * group, piece.cols, 0.0f);
        } else {
          std::copy_n(at, piece.cols, to + g * group);
          at += piece.cols;
        }
      }
      to += piece.cols;
    }
  });
  return dx;
}

}  // namespace bumblebee::cpu
