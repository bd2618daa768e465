// Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019) as mlx has them: without bias correction unless
// it is asked for.
#include <cmath>

#include "base/error.h"
#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Adam final : public Optimizer {
 public:
  Adam(Backend& backend, float b1, float b2, float eps, bool correct, std::optional<float> decay)
      : Optimizer(backend),
        b1_(b1),
        b2_(b2),
        rest1_(complement(b1)),
        rest2_(complement(b2)),
        eps_(eps),
        correct_(correct),
        decay_(decay) {}

 private:
  Layout layout(const Parameter& p) const override {
    return {{"m", {p.rows(), p.cols()}}, {"v", {p.rows(), p.cols()}}};
  }

  AdamStep step_of(float rate) const {
    return {.b1 = b1_,
            .b2 = b2_,
            .rest1 = rest1_,
            .rest2 = rest2_,
            .eps = eps_,
            .keep = decay_ ? 1 - rate * *decay_ : 1,
            .c1 = correct_ ? rate / (1 - std::pow(b1_, float(step_))) : rate,
            .c2 = correct_ ? 1 / std::sqrt(1 - std::pow(b2_, float(step_))) : 1};
  }

  void apply(std::span<Parameter> parameters, std::span<State> states, float rate) override {
    std::vector<AdamTerm> terms;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      terms.push_back({p.value, p.gradient, states[i].at("m"), states[i].at("v"), step_of(rate * p.rate_ratio)});
    }
    ops_.adam(terms);
  }

  float b1_, b2_, rest1_, rest2_, eps_;
  bool correct_;
  std::optional<float> decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& o, Backend& backend) {
  const auto [b1, b2] = o.betas.value_or(std::pair(0.9f, 0.999f));
  for (const float beta : {b1, b2}) {
    if (!(beta >= 0 && beta < 1))
      throw Error(ErrorCode::bad_request, "optimizer", cat("betas: expected [0, 1), got ", beta));
  }
  std::optional<float> decay;
  if (o.kind == OptimizerKind::adamw) decay = o.weight_decay.value_or(0.01f);
  return std::make_unique<Adam>(backend, b1, b2, o.eps.value_or(1e-8f), o.bias_correction.value_or(false), decay);
}

}  // namespace bumblebee::train
