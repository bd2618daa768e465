// Muon (Keller Jordan, 2024) as mlx has it: momentum, orthogonalised by five steps of a Newton-Schulz iteration.
// Factors are as narrow as their rank, so the square in the iteration is small.
#include <algorithm>
#include <cmath>

#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Muon final : public Optimizer {
 public:
  Muon(Backend& backend, float momentum, float decay, bool nesterov, int steps)
      : Optimizer(backend), momentum_(momentum), decay_(decay), nesterov_(nesterov), steps_(steps) {}

 private:
  Layout layout(const Parameter& p) const override { return {{"v", {p.rows(), p.cols()}}}; }

  static float rate_of(const Parameter& p, float rate) {
    if (!p.is_matrix()) return rate;
    const double rows = double(p.rows()), cols = double(p.cols());
    return rate * float(std::sqrt(std::max(1.0, p.transposed ? cols / rows : rows / cols)));
  }

  /// The gradient's memory takes the update.
  void apply(std::span<Parameter> parameters, std::span<State> states, float rate) override {
    std::vector<AxpbyTerm> decayed, moved, ahead, taken;
    std::vector<Tensor> matrices;
    const float fresh = complement(momentum_);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      const Tensor &v = states[i].at("v"), &update = p.gradient;
      decayed.push_back({.y = update, .x = p.value, .b = decay_});
      moved.push_back({.y = v, .a = momentum_, .x = update, .b = fresh});
      ahead.push_back({.y = update, .a = nesterov_ ? fresh : 0, .x = v, .b = nesterov_ ? momentum_ : 1});
      if (p.is_matrix()) matrices.push_back(update);
      taken.push_back({.y = p.value, .x = update, .b = -rate_of(p, rate * p.rate_ratio)});
    }
    if (decay_ != 0) ops_.axpby(decayed);
    ops_.axpby(moved);
    ops_.axpby(ahead);
    ops_.orthogonalize(matrices, steps_);
    ops_.axpby(taken);
  }

  float momentum_, decay_;
  bool nesterov_;
  int steps_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerOptions& o, Backend& backend) {
  return std::make_unique<Muon>(backend, o.momentum.value_or(0.95f), o.weight_decay.value_or(0.01f),
                                o.nesterov.value_or(true), o.ns_steps.value_or(5));
}

}  // namespace bumblebee::train
