// Choices of experts that cases with experts share.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {

/// Relative error of a weight in f32: the difference of two logits rounds by half a unit of either, which the
/// exponential makes relative; it is itself good to four roundings; sums, a quotient and two products follow.
inline double weight_error(const HostMatrix& logits) {
  double largest = 0;
  for (const float v : logits.values)
    if (std::isfinite(v)) largest = std::max(largest, std::abs(double(v)));
  return (4 * largest + 16) * kRoundF32 + testing_support::sum_error(logits.cols);
}

/// Rows' experts as route() chooses them from `logits` by softmax, normalised.
struct Chosen {
  std::vector<int> row, expert;  // [assignments]
  std::vector<double> weight;    // [rows, top_k]
  std::vector<int> order;        // [rows, top_k]
  Chosen(const HostMatrix& logits, int top_k) {
    std::vector<std::pair<int, size_t>> by_expert;
    for (int r = 0; r < logits.rows; ++r) {
      const float* x = logits.row(r);
      std::vector<int> best(size_t(logits.cols));
      std::iota(best.begin(), best.end(), 0);
      std::stable_sort(best.begin(), best.end(), [&](int a, int b) { return x[a] > x[b]; });
      double sum = 0;
      for (int j = 0; j < top_k; ++j) sum += std::exp(double(x[best[size_t(j)]]) - double(x[best[0]]));
      for (int j = 0; j < top_k; ++j) {
        by_expert.emplace_back(best[size_t(j)], weight.size());
        weight.push_back(std::exp(double(x[best[size_t(j)]]) - double(x[best[0]])) / sum);
      }
    }
    std::stable_sort(by_expert.begin(), by_expert.end(), [](auto& a, auto& b) { return a.first < b.first; });
    order.resize(weight.size());
    for (const auto& [e, at] : by_expert) {
      order[at] = int(row.size());
      row.push_back(int(at) / top_k);
      expert.push_back(e);
    }
  }
};

/// How rows spread over experts.
enum class Spread : uint8_t { even, skewed, one };

inline HostMatrix spread_logits(Random& random, int rows, int experts, Spread spread) {
  HostMatrix logits{rows, experts, random.normals(size_t(rows) * size_t(experts), 2)};
  for (int r = 0; r < rows; ++r) {
    for (int e = 0; e < experts; ++e) {
      float& v = logits.values[size_t(r) * size_t(experts) + size_t(e)];
      if (spread == Spread::skewed) v -= 0.7f * float(e);
      if (spread == Spread::one) v = (experts - e) % experts == 1 ? 9.0f : v / 4 - float(e);
    }
  }
  return logits;
}

}  // namespace bumblebee::op_cases
