// One row's product with a weight, whose rows are decoded one by one.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/ref/math.h"
#include "backend/ref/ref_tensor.h"
#include "quant/elements.h"

namespace bumblebee::ref {

/// y = W x
inline void multiply_row(const Weight& weight, std::span<const double> x, std::span<double> y) {
  std::vector<double> w(x.size());
  for (int n = 0; n < weight.out; ++n) {
    decode_row<double>(host(weight), n, w);
    y[size_t(n)] = dot<double, double>(x, std::span<const double>(w));
  }
}

/// y = Wᵀ x
inline void multiply_transposed(const Weight& weight, std::span<const double> x, std::span<double> y) {
  std::vector<double> w(y.size());
  std::fill(y.begin(), y.end(), 0.0);
  for (int n = 0; n < weight.out; ++n) {
    decode_row<double>(host(weight), n, w);
    for (size_t i = 0; i < y.size(); ++i) y[i] += x[size_t(n)] * w[i];
  }
}

}  // namespace bumblebee::ref
