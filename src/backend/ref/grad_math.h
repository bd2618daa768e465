// The derivatives of math.h, for one row or one head, in double: the specification of GradOps. Each adds nothing to
// what its function there says; tests hold them to it by complex step.
#pragma once

#include <cmath>
#include <span>
#include <vector>

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
inline void rope_dx(std::span<double> head, int position, std::span<const float> inv_freq, float attention_factor) {
  const size_t n = inv_freq.size();
  for (size_t i = 0; i < n; ++i) {
    const float angle = float(position) * inv_freq[i];
    const double c = std::cos(double(angle)) * double(attention_factor),
                 s = std::sin(double(angle)) * double(attention_factor);
    const double a = head[i], b = head[i + n];
    head[i] = a * c + b * s;
    head[i + n] = b * c - a * s;
  }
}

/// log Σ e^(scale·q·k[j]), and the weights e^(scale·q·k[j] - that) of `count` keys.
template <class Key>
double attention_weights(std::span<const double> q, int count, double scale, const Key& key,
                         std::vector<double>& weight) {
  weight.clear();
  double highest = -INFINITY, total = 0;
  for (int j = 0; j < count; ++j) {
    weight.push_back(dot(q, key(j)) * scale);
    highest = std::max(highest, weight.back());
  }
  for (const double w : weight) total += std::exp(w - highest);
  const double lse = highest + std::log(total);
  for (double& w : weight) w = std::exp(w - lse);
  return lse;
}

/// Gradients of attend for one query: dq is set, dkey(j) and dvalue(j) are added to.
template <class Key, class Value, class DKey, class DValue>
void attend_dqkv(std::span<const double> dout, std::span<const double> q, int count, double scale, const Key& key,
                 const Value& value, std::span<double> dq, const DKey& dkey, const DValue& dvalue) {
  std::vector<double> weight, slope;
  attention_weights(q, count, scale, key, weight);
  double mean = 0;  // Σ p·dp, which is dout·out
  for (int j = 0; j < count; ++j) {
    slope.push_back(dot(dout, value(j)));
    mean += weight[size_t(j)] * slope.back();
  }
  std::fill(dq.begin(), dq.end(), 0.0);
  for (int j = 0; j < count; ++j) {
    const double p = weight[size_t(j)], ds = p * (slope[size_t(j)] - mean) * scale;
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
