// Stochastic gradient descent with mlx's momentum, dampening and Nesterov's look ahead.
#include "base/error.h"
#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Sgd final : public Optimizer {
 public:
  Sgd(float momentum, float decay, float dampening, bool nesterov)
      : momentum_(momentum), decay_(decay), dampening_(dampening), nesterov_(nesterov) {}

 private:
  std::map<std::string, size_t> layout(const Parameter& p) const override {
    if (momentum_ == 0) return {};
    return {{"v", p.values.size()}};
  }

  void apply(Parameter& p, State& state, float rate) override {
    float* v = momentum_ == 0 ? nullptr : state.at("v").data();
    const float fresh = complement(dampening_);
    for (size_t i = 0; i < p.values.size(); ++i) {
      float& w = p.values[i];
      const float g = decay_ == 0 ? p.gradient[i] : p.gradient[i] + decay_ * w;
      if (v == nullptr) {
        w -= rate * g;
        continue;
      }
      v[i] = momentum_ * v[i] + fresh * g;
      w -= rate * (nesterov_ ? g + momentum_ * v[i] : v[i]);
    }
  }

  float momentum_, decay_, dampening_;
  bool nesterov_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& o) {
  const float momentum = o.momentum.value_or(0), dampening = o.dampening.value_or(0);
  const bool nesterov = o.nesterov.value_or(false);
  if (nesterov && (momentum == 0 || dampening != 0))
    throw Error(ErrorCode::bad_request, "optimizer", "nesterov: expected a momentum and no dampening");
  return std::make_unique<Sgd>(momentum, o.weight_decay.value_or(0), dampening, nesterov);
}

}  // namespace bumblebee::train
