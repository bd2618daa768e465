// Steps of optimizers as mlx.optimizers takes them, in f32 and in its order of operations: the specification of the
// lower half of GradOps. Every operator rounds to f32 but where a sum says double.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "backend/grad_ops.h"

namespace bumblebee::ref {

inline float axpby(float a, float y, float b, float x) { return a * y + b * x; }

inline void adam(const AdamStep& s, float g, float& w, float& m, float& v) {
  m = s.b1 * m + s.rest1 * g;
  v = s.b2 * v + s.rest2 * (g * g);
  w = w * s.keep - s.c1 * m / (std::sqrt(v) * s.c2 + s.eps);
}

/// `moments` and g [n] -> update [n]
inline void adafactor_vector(std::span<const float> g, float eps, float beta, std::span<float> moments,
                             std::span<float> update) {
  for (size_t i = 0; i < g.size(); ++i) {
    moments[i] = beta * moments[i] + (1 - beta) * (g[i] * g[i] + eps);
    update[i] = g[i] / std::sqrt(moments[i]);
  }
}

/// g [rows.size(), cols.size()] -> update, of that shape.
inline void adafactor_matrix(std::span<const float> g, float eps, float beta, std::span<float> rows,
                             std::span<float> cols, std::span<float> update) {
  std::vector<double> row_sum(rows.size()), col_sum(cols.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < cols.size(); ++c) {
      const float at = g[r * cols.size() + c];
      const double square = double(at * at + eps);
      row_sum[r] += square;
      col_sum[c] += square;
    }
  }
  double mean = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r] = beta * rows[r] + (1 - beta) * float(row_sum[r] / double(cols.size()));
    mean += double(rows[r]) / double(rows.size());
  }
  for (size_t c = 0; c < cols.size(); ++c)
    cols[c] = beta * cols[c] + (1 - beta) * float(col_sum[c] / double(rows.size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    const float by_row = 1 / std::sqrt(rows[r] / float(mean));
    for (size_t c = 0; c < cols.size(); ++c)
      update[r * cols.size() + c] = by_row * (1 / std::sqrt(cols[c])) * g[r * cols.size() + c];
  }
}

/// p·a·b + q·c for a [n, k], b [k, m], c [n, m]; sums are double.
inline std::vector<float> product(float p, const std::vector<float>& a, const std::vector<float>& b, float q,
                                  const std::vector<float>& c, size_t n, size_t k, size_t m) {
  std::vector<float> y(n * m);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < m; ++j) {
      double sum = 0;
      for (size_t l = 0; l < k; ++l) sum += double(a[i * k + l]) * double(b[l * m + j]);
      y[i * m + j] = float(double(p) * sum + (q != 0 ? double(q) * double(c[i * m + j]) : 0));
    }
  }
  return y;
}

/// x [n, m] with n <= m
inline void orthogonalize(std::vector<float>& x, size_t n, size_t m, int steps) {
  double squares = 0;
  for (const float v : x) squares += double(v) * double(v);
  const float length = float(std::sqrt(squares)) + 1e-7f;
  for (float& v : x) v /= length;
  std::vector<float> transposed(x.size());
  for (int step = 0; step < steps; ++step) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < m; ++j) transposed[j * n + i] = x[i * m + j];
    }
    const std::vector<float> square = product(1, x, transposed, 0, {}, n, m, n);
    const std::vector<float> poly = product(2.0315f, square, square, -4.7750f, square, n, n, n);
    x = product(1, poly, x, 3.4445f, x, n, n, m);
  }
}

}  // namespace bumblebee::ref
