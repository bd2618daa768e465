// Adafactor (Shazeer and Stern, 2018) as mlx has it: second moments of a matrix by rows and columns only.
#include <algorithm>
#include <cmath>

#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Adafactor final : public Optimizer {
 public:
  Adafactor(const OptimizerOptions& o, Backend& backend)
      : Optimizer(backend),
        eps_(o.factored_eps.value_or(std::pair(1e-30f, 1e-3f))),
        clip_(o.clip_threshold.value_or(1)),
        decay_rate_(o.decay_rate.value_or(-0.8f)),
        decay_(o.weight_decay.value_or(0)),
        beta_(o.beta_1),
        by_size_(o.scale_parameter.value_or(true)),
        relative_(o.relative_step.value_or(true)),
        warm_(o.warmup_init.value_or(false)) {}

 private:
  /// Rows and columns are those of the matrix as it is stored here; the rule is the same for its transpose.
  Layout layout(const Parameter& p) const override {
    Layout parts;
    if (p.is_matrix()) {
      parts = {{"exp_avg_sq_row", {1, p.rows()}}, {"exp_avg_sq_col", {1, p.cols()}}};
    } else {
      parts = {{"exp_avg_sq", {1, p.cols()}}};
    }
    if (beta_) parts["exp_avg"] = {p.rows(), p.cols()};
    return parts;
  }

  /// Root mean squares.
  std::vector<float> rms(std::span<const Tensor> tensors) const {
    std::vector<double> sums(tensors.size());
    ops_.sum_squares(tensors, sums);
    std::vector<float> result;
    for (size_t i = 0; i < sums.size(); ++i)
      result.push_back(float(std::sqrt(sums[i] / (double(tensors[i].rows()) * double(tensors[i].cols())))));
    return result;
  }

  std::vector<float> rates(std::span<const Parameter> parameters, float rate) const {
    const float step = float(step_);
    std::vector<float> own;
    std::vector<Tensor> values;
    for (const Parameter& p : parameters) {
      own.push_back(relative_ ? p.rate_ratio * std::min(warm_ ? 1e-6f * step : 1e-2f, 1 / std::sqrt(step))
                              : rate * p.rate_ratio);
      values.push_back(p.value);
    }
    if (!by_size_) return own;
    const std::vector<float> sizes = rms(values);
    for (size_t i = 0; i < own.size(); ++i) own[i] = std::max(eps_.second, sizes[i]) * own[i];
    return own;
  }

  void apply(std::span<Parameter> parameters, std::span<State> states, float rate) override {
    const std::vector<float> own_rate = rates(parameters, rate);
    const float beta = 1 - std::pow(float(step_), decay_rate_);
    std::vector<AdafactorTerm> terms;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      const Tensor rows = p.is_matrix() ? states[i].at("exp_avg_sq_row") : Tensor{};
      const Tensor& cols = states[i].at(p.is_matrix() ? "exp_avg_sq_col" : "exp_avg_sq");
      terms.push_back({.g = p.gradient, .rows = rows, .cols = cols, .eps = eps_.first, .beta = beta, .update = {}});
    }
    ops_.adafactor(terms);
    std::vector<Tensor> updates;
    for (const AdafactorTerm& t : terms) updates.push_back(t.update);
    const std::vector<float> lengths = rms(updates);

    std::vector<ScaleTerm> clipped;
    std::vector<AxpbyTerm> averaged, decayed, taken;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor &w = parameters[i].value, &update = updates[i];
      clipped.push_back({.y = update, .factor = own_rate[i], .divisor = std::max(1.0f, lengths[i] / clip_)});
      if (beta_) averaged.push_back({.y = states[i].at("exp_avg"), .a = *beta_, .x = update, .b = complement(*beta_)});
      decayed.push_back({.y = w, .x = w, .b = -decay_ * own_rate[i]});
      taken.push_back({.y = w, .x = beta_ ? averaged.back().y : update, .b = -1});
    }
    ops_.scale(clipped);
    ops_.axpby(averaged);
    if (decay_ != 0) ops_.axpby(decayed);
    ops_.axpby(taken);
  }

  std::pair<float, float> eps_;
  float clip_, decay_rate_, decay_;
  std::optional<float> beta_;
  bool by_size_, relative_, warm_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(const OptimizerOptions& options, Backend& backend) {
  return std::make_unique<Adafactor>(options, backend);
}

}  // namespace bumblebee::train
