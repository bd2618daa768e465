// Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019) as mlx has them: without bias correction unless
// it is asked for.
#include <cmath>

#include "base/error.h"
#include "train/optimizer.h"

namespace bumblebee::train {
namespace {

class Adam final : public Optimizer {
 public:
  Adam(float b1, float b2, float eps, bool correct, std::optional<float> decay)
      : b1_(b1), b2_(b2), rest1_(complement(b1)), rest2_(complement(b2)), eps_(eps), correct_(correct), decay_(decay) {}

 private:
  std::map<std::string, size_t> layout(const Parameter& p) const override {
    return {{"m", p.values.size()}, {"v", p.values.size()}};
  }

  void apply(Parameter& p, State& state, float rate) override {
    float *w = p.values.data(), *m = state.at("m").data(), *v = state.at("v").data();
    const float* g = p.gradient.data();
    const size_t count = p.values.size();
    const float keep = decay_ ? 1 - rate * *decay_ : 1;
    const float c1 = correct_ ? rate / (1 - std::pow(b1_, float(step_))) : rate;
    const float c2 = correct_ ? 1 / std::sqrt(1 - std::pow(b2_, float(step_))) : 1;
    for (size_t i = 0; i < count; ++i) {
      m[i] = b1_ * m[i] + rest1_ * g[i];
      v[i] = b2_ * v[i] + rest2_ * (g[i] * g[i]);
      w[i] = w[i] * keep - c1 * m[i] / (std::sqrt(v[i]) * c2 + eps_);
    }
  }

  float b1_, b2_, rest1_, rest2_, eps_;
  bool correct_;
  std::optional<float> decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(const OptimizerOptions& o) {
  const auto [b1, b2] = o.betas.value_or(std::pair(0.9f, 0.999f));
  for (const float beta : {b1, b2}) {
    if (!(beta >= 0 && beta < 1))
      throw Error(ErrorCode::bad_request, "optimizer", cat("betas: expected [0, 1), got ", beta));
  }
  std::optional<float> decay;
  if (o.kind == OptimizerKind::adamw) decay = o.weight_decay.value_or(0.01f);
  return std::make_unique<Adam>(b1, b2, o.eps.value_or(1e-8f), o.bias_correction.value_or(false), decay);
}

}  // namespace bumblebee::train
