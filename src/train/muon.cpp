// Muon (Keller Jordan, 2024) as mlx has it: momentum, orthogonalised by five steps of a Newton-Schulz iteration.
// Factors are as narrow as their rank, so the square in the iteration is small. Sums are f64 and rounded: their order
// is ours.
#include <algorithm>
#include <cmath>

#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

/// Row-major [n, m] with n <= m.
struct Wide {
  size_t n = 0, m = 0;
  std::vector<float> values;
};

Wide widen(const std::vector<float>& x, size_t rows, size_t cols) {
  if (rows <= cols) return {rows, cols, x};
  Wide wide{cols, rows, std::vector<float>(x.size())};
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) wide.values[c * rows + r] = x[r * cols + c];
  }
  return wide;
}

/// p·a·b + q·c for a [n, k], b [k, m], c [n, m]; with `turned`, b is [m, k].
std::vector<float> product(float p, const std::vector<float>& a, const std::vector<float>& b, bool turned, float q,
                           const std::vector<float>& c, size_t n, size_t k, size_t m) {
  std::vector<float> y(n * m);
  std::vector<double> sums(m);
  for (size_t i = 0; i < n; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (size_t l = 0; l < k; ++l) {
      const double f = double(a[i * k + l]);
      for (size_t j = 0; j < m; ++j) sums[j] += f * double(turned ? b[j * k + l] : b[l * m + j]);
    }
    for (size_t j = 0; j < m; ++j)
      y[i * m + j] = float(double(p) * sums[j] + (q != 0 ? double(q) * double(c[i * m + j]) : 0));
  }
  return y;
}

void orthogonalise(Wide& x, int steps) {
  double squares = 0;
  for (const float v : x.values) squares += double(v) * double(v);
  const float length = float(std::sqrt(squares)) + 1e-7f;
  for (float& v : x.values) v /= length;
  for (int step = 0; step < steps; ++step) {
    const std::vector<float> square = product(1, x.values, x.values, true, 0, {}, x.n, x.m, x.n);
    const std::vector<float> poly = product(2.0315f, square, square, false, -4.7750f, square, x.n, x.n, x.n);
    x.values = product(1, poly, x.values, false, 3.4445f, x.values, x.n, x.n, x.m);
  }
}

class Muon final : public Optimizer {
 public:
  Muon(float momentum, float decay, bool nesterov, int steps)
      : momentum_(momentum), decay_(decay), nesterov_(nesterov), steps_(steps) {}

 private:
  std::map<std::string, size_t> layout(const Parameter& p) const override { return {{"v", p.values.size()}}; }

  void apply(Parameter& p, State& state, float rate) override {
    std::vector<float>& v = state.at("v");
    std::vector<float> update(v.size());
    const float fresh = complement(momentum_);
    for (size_t i = 0; i < v.size(); ++i) {
      const float g = decay_ == 0 ? p.gradient[i] : p.gradient[i] + decay_ * p.values[i];
      v[i] = momentum_ * v[i] + fresh * g;
      update[i] = nesterov_ ? g * fresh + v[i] * momentum_ : v[i];
    }
    if (!p.is_matrix()) {
      for (size_t i = 0; i < v.size(); ++i) p.values[i] -= rate * update[i];
      return;
    }
    const size_t rows = size_t(p.rows), cols = size_t(p.cols);
    const double tall = p.turned ? double(cols) / double(rows) : double(rows) / double(cols);
    const float own_rate = rate * float(std::sqrt(std::max(1.0, tall)));
    Wide wide = widen(update, rows, cols);
    orthogonalise(wide, steps_);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c)
        p.values[r * cols + c] -= own_rate * wide.values[rows <= cols ? r * cols + c : c * rows + r];
    }
  }

  float momentum_, decay_;
  bool nesterov_;
  int steps_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& o) {
  return std::make_unique<Muon>(o.momentum.value_or(0.95f), o.weight_decay.value_or(0.01f), o.nesterov.value_or(true),
                                o.ns_steps.value_or(5));
}

}  // namespace bumblebee::train
