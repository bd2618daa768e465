// Stochastic gradient descent with mlx's momentum, dampening and Nesterov's look ahead.
#include "base/error.h"
#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Sgd final : public Optimizer {
 public:
  Sgd(Backend& backend, float momentum, float decay, float dampening, bool nesterov)
      : Optimizer(backend), momentum_(momentum), decay_(decay), dampening_(dampening), nesterov_(nesterov) {}

 private:
  Layout layout(const Parameter& p) const override {
    if (momentum_ == 0) return {};
    return {{"v", {p.rows(), p.cols()}}};
  }

  /// The gradient's memory takes the update.
  void apply(std::span<Parameter> parameters, std::span<State> states, float rate) override {
    std::vector<AxpbyTerm> decayed, moved, ahead, taken;
    const float fresh = complement(dampening_);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor &w = parameters[i].value, &g = parameters[i].gradient;
      const float own_rate = rate * parameters[i].rate_ratio;
      decayed.push_back({.y = g, .x = w, .b = decay_});
      if (momentum_ == 0) {
        taken.push_back({.y = w, .x = g, .b = -own_rate});
        continue;
      }
      const Tensor& v = states[i].at("v");
      moved.push_back({.y = v, .a = momentum_, .x = g, .b = fresh});
      ahead.push_back({.y = g, .x = v, .b = momentum_});
      taken.push_back({.y = w, .x = nesterov_ ? g : v, .b = -own_rate});
    }
    if (decay_ != 0) ops_.axpby(decayed);
    ops_.axpby(moved);
    if (nesterov_) ops_.axpby(ahead);
    ops_.axpby(taken);
  }

  float momentum_, decay_, dampening_;
  bool nesterov_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& o, Backend& backend) {
  const float momentum = o.momentum.value_or(0), dampening = o.dampening.value_or(0);
  const bool nesterov = o.nesterov.value_or(false);
  if (nesterov && (momentum == 0 || dampening != 0))
    throw Error(ErrorCode::bad_request, "optimizer", "nesterov: expected a momentum and no dampening");
  return std::make_unique<Sgd>(backend, momentum, o.weight_decay.value_or(0), dampening, nesterov);
}

}  // namespace bumblebee::train
