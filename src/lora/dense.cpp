// Rows of W' = m/|W + s·BA| ∘ (W + s·BA).
#include "lora/dense.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace bumblebee::lora {

DenseDelta::DenseDelta(const ModuleDelta& change, bool embedding, Dialect dialect)
    : change_(change), embedding_(embedding) {
  if (change.weight) {
    rows_ = change.weight->rows;
    cols_ = change.weight->cols;
  }
  if (!change.low_rank) return;
  rows_ = embedding ? change.low_rank->a.cols : change.low_rank->b.rows;
  cols_ = embedding ? change.low_rank->b.rows : change.low_rank->a.cols;
  if (embedding && dialect == Dialect::peft && !change.low_rank->magnitude.empty()) columns_.assign(size_t(cols_), 0.0);
}

void DenseDelta::add_delta(int row, std::span<double> values) const {
  if (!change_.low_rank) return;
  const LowRank& low = *change_.low_rank;
  const double scale = low.scale;
  const size_t rank = size_t(low.rank()), cols = size_t(cols_);
  for (size_t k = 0; k < rank; ++k) {
    if (embedding_) {
      const double factor = scale * double(low.a.values[k * size_t(low.a.cols) + size_t(row)]);
      for (size_t c = 0; c < cols; ++c) values[c] += factor * double(low.b.values[c * rank + k]);
    } else {
      const double factor = scale * double(low.b.values[size_t(row) * rank + k]);
      const size_t expert = size_t(row) / size_t(low.out());
      const float* a = low.a.values.data() + (expert * rank + k) * cols;
      for (size_t c = 0; c < cols; ++c) values[c] += factor * double(a[c]);
    }
  }
}

void DenseDelta::replace_and_add(int row, std::span<double> values) const {
  if (change_.weight) {
    const float* from = change_.weight->values.data() + size_t(row) * size_t(cols_);
    std::copy(from, from + cols_, values.begin());
  }
  add_delta(row, values);
}

void DenseDelta::observe(int row, std::span<const double> base) {
  std::vector<double> values(base.begin(), base.end());
  replace_and_add(row, values);
  for (size_t c = 0; c < columns_.size(); ++c) columns_[c] += values[c] * values[c];
}

void DenseDelta::change(int row, std::span<double> values) const {
  BB_CHECK(values.size() == size_t(cols_) && row >= 0 && row < rows_);
  replace_and_add(row, values);
  if (!change_.low_rank || change_.low_rank->magnitude.empty()) return;
  const std::vector<float>& m = change_.low_rank->magnitude;
  if (!columns_.empty()) {
    for (size_t c = 0; c < values.size(); ++c) values[c] *= double(m[c]) / std::sqrt(columns_[c]);
    return;
  }
  double squares = 0;
  for (const double v : values) squares += v * v;
  const double factor = double(m[size_t(row)]) / std::sqrt(squares);
  for (double& v : values) v *= factor;
}

void DenseDelta::delta(int row, std::span<double> values) const {
  std::fill(values.begin(), values.end(), 0.0);
  add_delta(row, values);
}

double delta_norm(const LowRank& low) {
  // |BA|² = Σ_ij (BᵀB)_ij (A Aᵀ)_ij, of each expert.
  const size_t rank = size_t(low.rank()), in = size_t(low.a.cols), out = size_t(low.out());
  double squares = 0;
  for (int e = 0; e < std::max(low.experts, 1); ++e) {
    const FactorView own = view(low, e);
    for (size_t i = 0; i < rank; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double aa = 0, bb = 0;
        for (size_t c = 0; c < in; ++c) aa += double(own.a[i * in + c]) * double(own.a[j * in + c]);
        for (size_t r = 0; r < out; ++r) bb += double(own.b[r * rank + i]) * double(own.b[r * rank + j]);
        squares += (i == j ? 1 : 2) * aa * bb;
      }
    }
  }
  return std::abs(double(low.scale)) * std::sqrt(std::max(squares, 0.0));
}

}  // namespace bumblebee::lora
