// What a recurrent layer means, for one column or one head and any scalar.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "backend/ref/math.h"

namespace bumblebee::ref {

/// Added to a sum of squares before its root.
constexpr double kDeltaEps = 1e-6;

/// Σ w[j]·x[j], or its silu: the inputs of one column, the newest last.
template <class T>
T convolve(std::span<const T> x, std::span<const T> w, bool then_silu) {
  const T sum = dot<T, T>(x, w);
  return then_silu ? silu(sum) : sum;
}

/// log(1 + e^x)
template <class T>
T softplus(const T& x) {
  using S = typename Sum<T>::type;
  return T(real_part(x) > 0 ? S(x) + std::log(S(1) + std::exp(-S(x))) : std::log(S(1) + std::exp(S(x))));
}

/// What is left of a state after a row.
template <class T>
T delta_decay(const T& a, const T& a_log, const T& dt_bias) {
  return std::exp(-std::exp(a_log) * softplus(T(a + dt_bias)));
}

/// x / |x|
template <class T>
std::vector<T> unit(std::span<const T> x) {
  const T length = std::sqrt(dot<T, T>(x, x) + T(kDeltaEps));
  std::vector<T> y;
  for (const T& v : x) y.push_back(v / length);
  return y;
}

/// One row of one head. With q and k of length one, S [q.size(), v.size()] forgets, then learns that k means v, as far
/// as it does not know it, and answers q:
///   S = decay·S;  S += k·(beta·(v - Sᵀk))ᵀ;  out = Sᵀq / sqrt(q.size())
template <class T>
void delta_rule(std::span<const T> q, std::span<const T> k, std::span<const T> v, const T& decay, const T& beta,
                std::span<T> state, std::span<T> out) {
  const std::vector<T> query = unit(q), key = unit(k);
  for (T& s : state) s *= decay;
  for (size_t j = 0; j < v.size(); ++j) {
    T known{};
    for (size_t i = 0; i < key.size(); ++i) known += key[i] * state[i * v.size() + j];
    const T learnt = beta * (v[j] - known);
    T answer{};
    for (size_t i = 0; i < key.size(); ++i) {
      T& s = state[i * v.size() + j];
      s += key[i] * learnt;
      answer += query[i] * s;
    }
    out[j] = answer / T(std::sqrt(double(q.size())));
  }
}

}  // namespace bumblebee::ref
