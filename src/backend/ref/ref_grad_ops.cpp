// Each as it is written on paper. Weights are decoded row by row.
#include "backend/ref/ref_grad_ops.h"

#include "backend/dropout.h"
#include "backend/ref/grad_math.h"
#include "backend/ref/ref_tensor.h"
#include "quant/elements.h"

namespace bumblebee::ref {
namespace {

std::span<double> head_of(const Tensor& t, int r, int head, int dim) {
  return row(t, r).subspan(size_t(head) * size_t(dim), size_t(dim));
}

double sink_of(const AttentionParams& a, int head) { return a.sinks ? row(a.sinks, 0)[size_t(head)] : -INFINITY; }

double at(const Tensor& t, GradOps::Op op, int r, int c) {
  return op == GradOps::Op::plain ? row(t, r)[size_t(c)] : row(t, c)[size_t(r)];
}

}  // namespace

template <class Body>
void RefGradOps::for_queries(const AttentionParams& a, Body body) const {
  for (const Segment& s : batch_.segments) {
    BB_CHECK(s.past == 0, "past ", s.past);
    for (int i = 0; i < s.rows; ++i) {
      const int first = a.window > 0 ? std::max(0, i - a.window + 1) : 0;
      for (int h = 0; h < a.heads; ++h) body(s.first + i, h, s.first + first, i - first + 1);
    }
  }
}

Tensor RefGradOps::attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& a,
                                 Tensor& lse) {
  Tensor out = make_tensor(q.rows(), q.cols());
  lse = make_tensor(q.rows(), a.heads);
  Attended of;
  for_queries(a, [&](int r, int h, int first, int count) {
    const int group = h * a.kv_heads / a.heads;
    const auto key = [&](int j) -> std::span<const double> { return head_of(k, first + j, group, a.head_dim); };
    const std::span<double> y = head_of(out, r, h, a.head_dim);
    row(lse, r)[size_t(h)] = attention_weights(head_of(q, r, h, a.head_dim), count, double(a.scale), key,
                                               double(a.soft_cap), sink_of(a, h), of);
    for (int j = 0; j < count; ++j) {
      const std::span<double> value = head_of(v, first + j, group, a.head_dim);
      for (size_t d = 0; d < y.size(); ++d) y[d] += of.weight[size_t(j)] * value[d];
    }
  });
  return out;
}

void RefGradOps::attend_packed_dqkv(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor&, const Tensor&, const AttentionParams& a, Tensor& dq, Tensor& dk,
                                    Tensor& dv) {
  dq = make_tensor(q.rows(), q.cols());
  dk = make_tensor(k.rows(), k.cols());
  dv = make_tensor(v.rows(), v.cols());
  for_queries(a, [&](int r, int h, int first, int count) {
    const int group = h * a.kv_heads / a.heads;
    const auto rows_of = [&](const Tensor& t) {
      return [&t, first, group, &a](int j) { return head_of(t, first + j, group, a.head_dim); };
    };
    const auto key = [&](int j) -> std::span<const double> { return rows_of(k)(j); };
    const auto value = [&](int j) -> std::span<const double> { return rows_of(v)(j); };
    attend_dqkv(head_of(dout, r, h, a.head_dim), head_of(q, r, h, a.head_dim), count, double(a.scale), key, value,
                double(a.soft_cap), sink_of(a, h), head_of(dq, r, h, a.head_dim), rows_of(dk), rows_of(dv));
  });
}

Tensor RefGradOps::matmul_dx(std::span<const Tensor> dy, std::span<const Weight* const> weights) {
  BB_CHECK(dy.size() == weights.size() && !dy.empty());
  Tensor dx = make_tensor(dy[0].rows(), weights[0]->in);
  std::vector<double> w(size_t(dx.cols()));
  for (size_t t = 0; t < dy.size(); ++t) {
    BB_CHECK(weights[t]->in == dx.cols() && weights[t]->out == dy[t].cols() && dy[t].rows() == dx.rows());
    for (int n = 0; n < weights[t]->out; ++n) {
      decode_row<double>(host(*weights[t]), n, w);
      for (int r = 0; r < dx.rows(); ++r) {
        for (size_t k = 0; k < w.size(); ++k) row(dx, r)[k] += row(dy[t], r)[size_t(n)] * w[k];
      }
    }
  }
  return dx;
}

void RefGradOps::gemm(float alpha, const Tensor& a, Op op_a, const Tensor& b, Op op_b, float beta, Tensor& c) {
  const int m = op_a == Op::plain ? a.rows() : a.cols(), depth = op_a == Op::plain ? a.cols() : a.rows();
  const int n = op_b == Op::plain ? b.cols() : b.rows();
  BB_CHECK(depth == (op_b == Op::plain ? b.rows() : b.cols()), "depth ", depth);
  if (!c && beta == 0) c = make_tensor(m, n);
  BB_CHECK(c && c.rows() == m && c.cols() == n, "c [", c.rows(), ", ", c.cols(), "]");
  for (int r = 0; r < m; ++r) {
    for (int col = 0; col < n; ++col) {
      double sum = 0;
      for (int i = 0; i < depth; ++i) sum += at(a, op_a, r, i) * at(b, op_b, i, col);
      double& y = row(c, r)[size_t(col)];
      y = double(alpha) * sum + (beta == 0 ? 0 : double(beta) * y);
    }
  }
}

Tensor RefGradOps::rms_norm_dx(const Tensor& dy, const Tensor& x, const NormParams& norm) {
  const size_t width = size_t(norm.w.cols());
  BB_CHECK(size_t(x.cols()) % width == 0, "cols ", x.cols(), " width ", width);
  Tensor dx = make_tensor(x.rows(), x.cols());
  for (int r = 0; r < x.rows(); ++r) {
    for (size_t first = 0; first < size_t(x.cols()); first += width)
      ref::rms_norm_dx(row(dy, r).subspan(first, width), row(x, r).subspan(first, width), row(norm.w, 0),
                       double(norm.eps), row(dx, r).subspan(first, width));
  }
  return dx;
}

void RefGradOps::rotate_back(Tensor& d, const Tensor& x, int head_dim, const NormParams* norm,
                             const RopeParams& rope) const {
  d = make_writable(d);
  const std::vector<bool> stretched = batch_.stretched_rows();
  for (int r = 0; r < d.rows(); ++r) {
    const bool of_long = stretched[size_t(r)] && !rope.long_inv_freq.empty();
    for (int h = 0; h < d.cols() / head_dim; ++h)
      rope_dx(head_of(d, r, h, head_dim), batch_.positions[size_t(r)], of_long ? rope.long_inv_freq : rope.inv_freq,
              rope.attention_factor, rope.interleaved);
  }
  if (norm == nullptr) return;
  const Tensor rotated = d;
  d = make_tensor(d.rows(), d.cols());
  for (int r = 0; r < d.rows(); ++r) {
    for (int h = 0; h < d.cols() / head_dim; ++h)
      ref::rms_norm_dx(head_of(rotated, r, h, head_dim), head_of(x, r, h, head_dim), row(norm->w, 0), double(norm->eps),
                       head_of(d, r, h, head_dim));
  }
}

void RefGradOps::norm_rope_dx(Tensor& dq, Tensor& dk, const Tensor& q, const Tensor& k, int head_dim,
                              const NormParams* q_norm, const NormParams* k_norm, const RopeParams& rope) {
  BB_CHECK(rope.first == 0, "a rotation without a derivative");
  dq = make_writable(dq);
  for (int r = 0; r < dq.rows() && rope.query_growth != 0; ++r) {
    for (double& v : row(dq, r)) v *= double(rope.query_factor(batch_.positions[size_t(r)]));
  }
  rotate_back(dq, q, head_dim, q_norm, rope);
  if (dk) rotate_back(dk, k, head_dim, k_norm, rope);
}

void RefGradOps::glu_dx(Activation activation, const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                        Tensor& dup) {
  dgate = make_tensor(gate.rows(), gate.cols());
  dup = make_tensor(up.rows(), up.cols());
  for (int r = 0; r < dy.rows(); ++r) {
    for (size_t c = 0; c < size_t(dy.cols()); ++c) {
      const double d = row(dy, r)[c], g = row(gate, r)[c], u = row(up, r)[c];
      const auto set = [&](double value, double slope) {
        row(dgate, r)[c] = d * u * slope;
        row(dup, r)[c] = d * value;
      };
      switch (activation) {
        case Activation::silu: set(silu(g), silu_slope(g)); break;
        case Activation::gelu: set(gelu(g), gelu_slope(g)); break;
        case Activation::sigmoid: set(sigmoid(g), sigmoid(g) * sigmoid(-g)); break;
        case Activation::identity: set(g, 1); break;
        case Activation::clamped_silu: clamped_glu_dx(d, g, u, row(dgate, r)[c], row(dup, r)[c]); break;
      }
    }
  }
}

double RefGradOps::head_loss(const Tensor& h, const Weight& head, const Tensor& bias, const LogitParams& logits,
                             std::span<const int32_t> targets, std::span<const float> weights, std::span<float> losses,
                             Tensor* dh) {
  const size_t rows = size_t(h.rows());
  BB_CHECK(targets.size() == rows && weights.size() == rows && losses.size() == rows && head.in == h.cols());
  if (dh != nullptr) *dh = make_tensor(h.rows(), h.cols());
  const double factor = double(logits.factor), cap = double(logits.cap);
  std::vector<double> z(size_t(head.out)), slope(z.size(), factor), w(size_t(head.in));
  double sum = 0;
  for (int r = 0; r < h.rows(); ++r) {
    const int32_t target = targets[size_t(r)];
    BB_CHECK(target < head.out, "target ", target, " of ", head.out);
    losses[size_t(r)] = 0;
    if (target < 0) continue;
    for (int n = 0; n < head.out; ++n) {
      decode_row<double>(host(head), n, w);
      double& value = z[size_t(n)];
      value =
          factor * (dot<double, double>(row(h, r), std::span<const double>(w)) + (bias ? row(bias, 0)[size_t(n)] : 0));
      if (cap == 0) continue;
      const double tanh = std::tanh(value / cap);
      slope[size_t(n)] = factor * (1 - tanh * tanh);
      value = cap * tanh;
    }
    const double loss = cross_entropy(z, size_t(target)), weight = double(weights[size_t(r)]);
    losses[size_t(r)] = float(loss);
    sum += weight * loss;
    if (dh == nullptr) continue;
    for (int n = 0; n < head.out; ++n) {
      decode_row<double>(host(head), n, w);
      for (size_t i = 0; i < w.size(); ++i) row(*dh, r)[i] += weight * z[size_t(n)] * slope[size_t(n)] * w[i];
    }
  }
  return sum;
}

void RefGradOps::axpy(float alpha, const Tensor& x, Tensor& y) {
  BB_CHECK(x.rows() == y.rows() && x.cols() == y.cols());
  for (int r = 0; r < y.rows(); ++r) {
    for (size_t c = 0; c < size_t(y.cols()); ++c) row(y, r)[c] += double(alpha) * row(x, r)[c];
  }
}

Tensor RefGradOps::dropout(const Tensor& x, float p, const DropoutKey& key) {
  const uint32_t threshold = dropout_threshold(p);
  Tensor y = make_tensor(x.rows(), x.cols());
  for (int r = 0; r < x.rows(); ++r) {
    for (size_t c = 0; c < size_t(x.cols()); ++c) {
      const bool stays = dropout_bits(key, uint64_t(r) * uint64_t(x.cols()) + c) >= threshold;
      row(y, r)[c] = stays ? row(x, r)[c] * double(dropout_scale(threshold)) : 0;
    }
  }
  return y;
}

void RefGradOps::multiply_columns(Tensor& y, const Tensor& factor) {
  BB_CHECK(factor.cols() == y.cols());
  for (int r = 0; r < y.rows(); ++r) multiply<double>(row(y, r), row(factor, 0));
}

Tensor RefGradOps::column_dots(const Tensor& x, const Tensor& y) {
  BB_CHECK(x.rows() == y.rows() && x.cols() == y.cols());
  Tensor sums = make_tensor(1, x.cols());
  for (int r = 0; r < x.rows(); ++r) {
    for (size_t c = 0; c < size_t(x.cols()); ++c) row(sums, 0)[c] += row(x, r)[c] * row(y, r)[c];
  }
  return sums;
}

Tensor RefGradOps::row_lengths(const Weight& weight, const Tensor& a, const Tensor& b, float scale) {
  BB_CHECK(a.cols() == weight.in && b.rows() == weight.out && b.cols() == a.rows());
  Tensor lengths = make_tensor(1, weight.out);
  std::vector<double> w(size_t(weight.in));
  for (int n = 0; n < weight.out; ++n) {
    decode_row<double>(host(weight), n, w);
    for (int i = 0; i < a.rows(); ++i) {
      for (size_t k = 0; k < w.size(); ++k) w[k] += double(scale) * row(b, n)[size_t(i)] * row(a, i)[k];
    }
    row(lengths, 0)[size_t(n)] = std::sqrt(dot<double, double>(w, std::span<const double>(w)));
  }
  return lengths;
}

}  // namespace bumblebee::ref
