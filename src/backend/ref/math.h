// What every operation means, spelled out for one row or one head and any scalar: float, double, or
// std::complex<double> for gradient checks by complex step (comparisons go by the real part). Slow and obvious on
// purpose: this is the specification.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <span>
#include <vector>

#include "backend/ops.h"

namespace bumblebee::ref {

/// Sums of floats are formed in double; wider types sum in themselves.
template <class T>
struct Sum {
  using type = T;
};
template <>
struct Sum<float> {
  using type = double;
};

inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

/// Σ a[i]·b[i]
template <class T, class U>
T dot(std::span<const T> a, std::span<const U> b) {
  typename Sum<T>::type sum{};
  for (size_t i = 0; i < a.size(); ++i) sum += typename Sum<T>::type(a[i]) * typename Sum<T>::type(b[i]);
  return T(sum);
}

/// M x for M [rows, x.size()], row-major
template <class T>
std::vector<T> times(std::span<const T> m, std::span<const T> x) {
  std::vector<T> y;
  for (size_t at = 0; at < m.size(); at += x.size()) y.push_back(dot<T, T>(m.subspan(at, x.size()), x));
  return y;
}

/// y += x and y ∘= x
template <class T>
void add(std::span<T> y, std::span<const T> x) {
  for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}
template <class T>
void multiply(std::span<T> y, std::span<const T> x) {
  for (size_t i = 0; i < y.size(); ++i) y[i] *= x[i];
}

/// y = x / sqrt(mean(x²) + eps) · w
template <class T>
void rms_norm(std::span<const T> x, std::span<const T> w, double eps, std::span<T> y) {
  typename Sum<T>::type squares{};
  for (const T& v : x) squares += typename Sum<T>::type(v) * typename Sum<T>::type(v);
  const auto inverse = 1.0 / std::sqrt(squares / double(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) y[i] = T(typename Sum<T>::type(x[i]) * inverse * typename Sum<T>::type(w[i]));
}

/// Rotates the first 2·inv_freq.size() features of one head in pairs (i, i + n), or `interleaved` ones (2i, 2i + 1).
/// The angle is an f32 product, as models are trained with.
template <class T>
void rope(std::span<T> head, int position, std::span<const float> inv_freq, float attention_factor,
          bool interleaved = false) {
  const size_t n = inv_freq.size();
  for (size_t i = 0; i < n; ++i) {
    const float angle = float(position) * inv_freq[i];
    const double c = std::cos(double(angle)) * double(attention_factor),
                 s = std::sin(double(angle)) * double(attention_factor);
    const size_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + n;
    const T a = head[first], b = head[second];
    head[first] = T(a * T(c) - b * T(s));
    head[second] = T(b * T(c) + a * T(s));
  }
}

/// cap·tanh(x/cap)
template <class T>
T soft_cap(const T& x, double cap) {
  return T(std::tanh(typename Sum<T>::type(x) / cap) * cap);
}

/// out = Σ softmax(scale·q·k[j])·v[j] over `count` keys and values of q.size() features each, where key(j) and value(j)
/// are spans; of values the first out.size() features count. With a `cap` scores are soft_cap'ed. `sink` is one more
/// score, without a value; -infinity: there is none.
template <class T, class Key, class Value>
void attend(std::span<const T> q, int count, double scale, const Key& key, const Value& value, std::span<T> out,
            double cap = 0, double sink = -INFINITY) {
  using S = typename Sum<T>::type;
  std::vector<S> weight(static_cast<size_t>(count));
  double highest = sink;
  for (int j = 0; j < count; ++j) {
    weight[size_t(j)] = S(dot(q, key(j))) * scale;
    if (cap > 0) weight[size_t(j)] = soft_cap(weight[size_t(j)], cap);
    highest = std::max(highest, real_part(weight[size_t(j)]));
  }
  S total{sink == -INFINITY ? 0.0 : std::exp(sink - highest)};
  for (S& w : weight) total += (w = std::exp(w - highest));
  std::vector<S> sum(out.size());
  for (int j = 0; j < count; ++j) {
    const auto v = value(j);
    for (size_t i = 0; i < out.size(); ++i) sum[i] += weight[size_t(j)] * S(v[i]);
  }
  for (size_t i = 0; i < out.size(); ++i) out[i] = T(sum[i] / total);
}

/// 1/(1 + exp(-x))
template <class T>
T sigmoid(const T& x) {
  using S = typename Sum<T>::type;
  return T(S(1) / (S(1) + std::exp(-S(x))));
}

/// Softmax of x.
template <class T>
std::vector<T> softmax(std::span<const T> x) {
  using S = typename Sum<T>::type;
  double highest = -INFINITY;
  for (const T& v : x) highest = std::max(highest, real_part(v));
  std::vector<T> y;
  S total{};
  for (const T& v : x) total += std::exp(S(v) - highest);
  for (const T& v : x) y.push_back(T(std::exp(S(v) - highest) / total));
  return y;
}

/// Activation::clamped_silu
template <class T>
T clamped_glu(const T& gate, const T& up) {
  const T g = real_part(gate) > double(kClampLimit) ? T(kClampLimit) : gate;
  const T u = real_part(up) > double(kClampLimit)    ? T(kClampLimit)
              : real_part(up) < -double(kClampLimit) ? T(-kClampLimit)
                                                     : up;
  return g * sigmoid(g * T(double(kClampSlope))) * (u + T(1));
}

/// x·sigmoid(x)
template <class T>
T silu(const T& x) {
  using S = typename Sum<T>::type;
  return T(S(x) / (S(1) + std::exp(-S(x))));
}

/// x·sigmoid(v) with v = 2·sqrt(2/π)·(x + 0.044715x³): tanh's approximation of gelu.
template <class T>
T gelu(const T& x) {
  using S = typename Sum<T>::type;
  const S s(x), v = 1.5957691216057308 * (s + 0.044715 * s * s * s);
  return T(s / (S(1) + std::exp(-v)));
}

}  // namespace bumblebee::ref
