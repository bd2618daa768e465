// Adafactor (Shazeer and Stern, 2018) as mlx has it: second moments of a matrix by rows and columns only.
#include <algorithm>
#include <cmath>

#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

float rms(const std::vector<float>& values) {
  double squares = 0;
  for (const float v : values) squares += double(v) * double(v);
  return float(std::sqrt(squares / double(values.size())));
}

class Adafactor final : public Optimizer {
 public:
  explicit Adafactor(const OptimizerOptions& o)
      : eps_(o.factored_eps.value_or(std::pair(1e-30f, 1e-3f))),
        clip_(o.clip_threshold.value_or(1)),
        decay_rate_(o.decay_rate.value_or(-0.8f)),
        decay_(o.weight_decay.value_or(0)),
        beta_(o.beta_1),
        by_size_(o.scale_parameter.value_or(true)),
        relative_(o.relative_step.value_or(true)),
        warm_(o.warmup_init.value_or(false)) {}

 private:
  /// Rows and columns are those of the matrix as it is stored here; the rule is the same for its transpose.
  std::map<std::string, size_t> layout(const Parameter& p) const override {
    std::map<std::string, size_t> parts;
    if (p.is_matrix()) {
      parts = {{"exp_avg_sq_row", size_t(p.rows)}, {"exp_avg_sq_col", size_t(p.cols)}};
    } else {
      parts = {{"exp_avg_sq", p.values.size()}};
    }
    if (beta_) parts["exp_avg"] = p.values.size();
    return parts;
  }

  float own_rate(float rate, const Parameter& p) const {
    const float step = float(step_);
    float own = rate;
    if (relative_) own = p.rate_ratio * std::min(warm_ ? 1e-6f * step : 1e-2f, 1 / std::sqrt(step));
    return by_size_ ? std::max(eps_.second, rms(p.values)) * own : own;
  }

  void apply(Parameter& p, State& state, float rate) override {
    const float lr = own_rate(rate, p);
    const float beta = 1 - std::pow(float(step_), decay_rate_);
    std::vector<float> update = p.is_matrix() ? factored(p, state, beta) : whole(p, state, beta);
    const float length = std::max(1.0f, rms(update) / clip_);
    for (float& u : update) u = lr * (u / length);
    if (beta_) {
      std::vector<float>& mean = state.at("exp_avg");
      const float fresh = complement(*beta_);
      for (size_t i = 0; i < update.size(); ++i) update[i] = mean[i] = *beta_ * mean[i] + fresh * update[i];
    }
    for (size_t i = 0; i < update.size(); ++i) {
      float& w = p.values[i];
      if (decay_ != 0) w += w * (-decay_ * lr);
      w -= update[i];
    }
  }

  std::vector<float> whole(const Parameter& p, State& state, float beta) const {
    std::vector<float>& mean = state.at("exp_avg_sq");
    std::vector<float> update(p.values.size());
    for (size_t i = 0; i < update.size(); ++i) {
      const float g = p.gradient[i];
      mean[i] = beta * mean[i] + (1 - beta) * (g * g + eps_.first);
      update[i] = g / std::sqrt(mean[i]);
    }
    return update;
  }

  std::vector<float> factored(const Parameter& p, State& state, float beta) const {
    const size_t rows = size_t(p.rows), cols = size_t(p.cols);
    std::vector<float>&row = state.at("exp_avg_sq_row"), &col = state.at("exp_avg_sq_col");
    std::vector<double> row_sum(rows), col_sum(cols);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c) {
        const float g = p.gradient[r * cols + c];
        const double square = double(g * g + eps_.first);
        row_sum[r] += square;
        col_sum[c] += square;
      }
    }
    double mean = 0;
    for (size_t r = 0; r < rows; ++r) {
      row[r] = beta * row[r] + (1 - beta) * float(row_sum[r] / double(cols));
      mean += double(row[r]) / double(rows);
    }
    for (size_t c = 0; c < cols; ++c) col[c] = beta * col[c] + (1 - beta) * float(col_sum[c] / double(rows));
    std::vector<float> update(rows * cols);
    for (size_t r = 0; r < rows; ++r) {
      const float by_row = 1 / std::sqrt(row[r] / float(mean));
      for (size_t c = 0; c < cols; ++c)
        update[r * cols + c] = by_row * (1 / std::sqrt(col[c])) * p.gradient[r * cols + c];
    }
    return update;
  }

  std::pair<float, float> eps_;
  float clip_, decay_rate_, decay_;
  std::optional<float> beta_;
  bool by_size_, relative_, warm_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(const OptimizerOptions& options) {
  return std::make_unique<Adafactor>(options);
}

}  // namespace bumblebee::train
