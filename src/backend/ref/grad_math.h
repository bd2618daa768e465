// The derivatives of math.h, for one row or one head, in double: the specification of GradOps. Each adds nothing to
// what its function there says; tests hold them to it by complex step.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "backend/ref/delta_math.h"
#include "backend/ref/math.h"

namespace bumblebee::ref {

/// dx of rms_norm: with r = 1/sqrt(mean(x²) + eps), r·(w∘dy) - x·r³·mean(w∘dy∘x).
inline void rms_norm_dx(std::span<const double> dy, std::span<const double> x, std::span<const double> w, double eps,
                        std::span<double> dx) {
  const double n = double(x.size());
  double squares = 0, mixed = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    squares += x[i] * x[i];
    mixed += w[i] * dy[i] * x[i];
  }
  const double r = 1 / std::sqrt(squares / n + eps);
  for (size_t i = 0; i < x.size(); ++i) dx[i] = r * (w[i] * dy[i] - x[i] * r * r * (mixed / n));
}

/// The transpose of rope: rotates back, with the same attention_factor.
inline void rope_dx(std::span<double> head, int position, std::span<const float> inv_freq, float attention_factor,
                    bool interleaved) {
  const size_t n = inv_freq.size();
  for (size_t i = 0; i < n; ++i) {
    const float angle = float(position) * inv_freq[i];
    const double c = std::cos(double(angle)) * double(attention_factor),
                 s = std::sin(double(angle)) * double(attention_factor);
    const size_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + n;
    const double a = head[first], b = head[second];
    head[first] = a * c + b * s;
    head[second] = b * c - a * s;
  }
}

/// Of a query: its scores, what each weighs, and by how much it moves with scale·q·k.
struct Attended {
  std::vector<double> weight, slope;
};

/// log Σ e^score of `count` keys and the sink, and what they weigh: e^(score - that). With a `cap`, scores are capped.
template <class Key>
double attention_weights(std::span<const double> q, int count, double scale, const Key& key, double cap, double sink,
                         Attended& of) {
  std::vector<double>& weight = of.weight;
  weight.clear();
  of.slope.clear();
  double highest = sink, total = 0;
  for (int j = 0; j < count; ++j) {
    const double score = dot(q, key(j)) * scale, tanh = cap > 0 ? std::tanh(score / cap) : 0;
    weight.push_back(cap > 0 ? cap * tanh : score);
    of.slope.push_back(1 - tanh * tanh);
    highest = std::max(highest, weight.back());
  }
  if (sink != -INFINITY) total = std::exp(sink - highest);
  for (const double w : weight) total += std::exp(w - highest);
  const double lse = highest + std::log(total);
  for (double& w : weight) w = std::exp(w - lse);
  return lse;
}

/// Gradients of attend for one query: dq is set, dkey(j) and dvalue(j) are added to.
template <class Key, class Value, class DKey, class DValue>
void attend_dqkv(std::span<const double> dout, std::span<const double> q, int count, double scale, const Key& key,
                 const Value& value, double cap, double sink, std::span<double> dq, const DKey& dkey,
                 const DValue& dvalue) {
  Attended of;
  attention_weights(q, count, scale, key, cap, sink, of);
  std::vector<double> dp;
  double mean = 0;  // Σ p·dp, which is dout·out: a sink has no value
  for (int j = 0; j < count; ++j) {
    dp.push_back(dot(dout, value(j)));
    mean += of.weight[size_t(j)] * dp.back();
  }
  std::fill(dq.begin(), dq.end(), 0.0);
  for (int j = 0; j < count; ++j) {
    const double p = of.weight[size_t(j)], ds = p * (dp[size_t(j)] - mean) * of.slope[size_t(j)] * scale;
    const auto k = key(j);
    const auto dk = dkey(j), dv = dvalue(j);
    for (size_t i = 0; i < q.size(); ++i) {
      dq[i] += ds * k[i];
      dk[i] += ds * q[i];
      dv[i] += p * dout[i];
    }
  }
}

/// Derivative of silu.
inline double silu_slope(double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  return sigmoid * (1 + x * (1 - sigmoid));
}

/// Derivative of gelu.
inline double gelu_slope(double x) {
  constexpr double kTwice = 1.5957691216057308;
  const double sigmoid = 1 / (1 + std::exp(-kTwice * (x + 0.044715 * x * x * x)));
  if (sigmoid == 0 || sigmoid == 1) return sigmoid;  // where x² would leave the range of numbers
  return sigmoid * (1 + x * (1 - sigmoid) * kTwice * (1 + 3 * 0.044715 * x * x));
}

/// Gradients of Activation::clamped_silu. At a limit the slope is that of within, as torch's clamp has it.
inline void clamped_glu_dx(double dy, double gate, double up, double& dgate, double& dup) {
  const double limit = double(kClampLimit), slope = double(kClampSlope);
  const double g = std::min(gate, limit), u = std::clamp(up, -limit, limit) + 1, s = sigmoid(slope * g);
  dgate = gate <= limit ? dy * u * s * (1 + slope * g * (1 - s)) : 0;
  dup = std::abs(up) <= limit ? dy * g * s : 0;
}

/// Gradient of unit() at x: with n its length, dy/n - x·(x·dy)/n³.
inline std::vector<double> unit_dx(std::span<const double> dy, std::span<const double> x) {
  const double squares = dot(x, x) + kDeltaEps, length = std::sqrt(squares), along = dot(x, dy) / squares;
  std::vector<double> dx;
  for (size_t i = 0; i < x.size(); ++i) dx.push_back((dy[i] - x[i] * along) / length);
  return dx;
}

/// What delta_rule reads in one row of one head, and gradients with respect to it.
struct DeltaRow {
  std::span<const double> q, k, v;
  double decay = 0, beta = 0;
};
struct DeltaSlopes {
  std::span<double> q, k, v;  // q and k are added to
  double decay = 0, beta = 0;
};

/// The way back through one row of one head: `before` is the state that the row found, `dstate` the gradient of the one
/// it left, which becomes that of `before`. With S' = decay·S, learnt = beta·(v - S'ᵀk) and T = S' + k·learntᵀ:
///   dT += q·doutᵀ;  dlearnt = dTᵀk;  dv = beta·dlearnt;  dS' = dT - k·dvᵀ;  dS = decay·dS'
inline void delta_rule_dx(const DeltaRow& in, std::span<const double> dout, std::span<const double> before,
                          std::span<double> dstate, DeltaSlopes& slopes) {
  const size_t dk = in.k.size(), dv = in.v.size();
  const std::vector<double> query = unit(in.q), key = unit(in.k);
  std::vector<double> dquery(dk), dkey(dk);
  const double root = std::sqrt(double(dk));
  slopes.decay = slopes.beta = 0;
  for (size_t j = 0; j < dv; ++j) {
    double known = 0, dlearnt = 0;
    for (size_t i = 0; i < dk; ++i) {
      known += key[i] * in.decay * before[i * dv + j];
      dstate[i * dv + j] += query[i] * dout[j] / root;
      dlearnt += key[i] * dstate[i * dv + j];
    }
    const double learnt = in.beta * (in.v[j] - known);
    slopes.beta += dlearnt * (in.v[j] - known);
    slopes.v[j] = in.beta * dlearnt;
    for (size_t i = 0; i < dk; ++i) {
      double& d = dstate[i * dv + j];
      const double s = before[i * dv + j];
      dquery[i] += (in.decay * s + key[i] * learnt) * dout[j] / root;
      dkey[i] += d * learnt - in.decay * s * slopes.v[j];
      d -= key[i] * slopes.v[j];
      slopes.decay += d * s;
      d *= in.decay;
    }
  }
  add<double>(slopes.q, unit_dx(dquery, in.q));
  add<double>(slopes.k, unit_dx(dkey, in.k));
}

/// Derivative of delta_decay with respect to a, given the decay.
inline double delta_decay_slope(double decay, double a, double a_log, double dt_bias) {
  return -decay * std::exp(a_log) * sigmoid(a + dt_bias);
}

/// log Σ e^z - z[target]; z becomes the gradient with respect to z.
inline double cross_entropy(std::span<double> z, size_t target) {
  const double highest = *std::max_element(z.begin(), z.end());
  double total = 0;
  for (const double v : z) total += std::exp(v - highest);
  const double lse = highest + std::log(total), loss = lse - z[target];
  for (double& v : z) v = std::exp(v - lse);
  z[target] -= 1;
  return loss;
}

}  // namespace bumblebee::ref
