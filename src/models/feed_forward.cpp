// One MLP, or a mixture of many.
#include "models/feed_forward.h"

namespace bumblebee::models {

FeedForward::FeedForward(const MoeSpec& moe, nn::Loader& load, int i, const std::string& at, int d_model, int d_ff,
                         bool bias) {
  const bool sparse = !moe.layers.empty() && moe.layers[size_t(i)];
  if (sparse) moe_ = load_moe(moe, load, at + moe.block + ".", d_model);
  const std::string mlp = sparse ? at + moe.block + ".shared_expert." : at + "mlp.";
  if (const int inner = sparse ? moe.shared_d_ff : d_ff; inner > 0) {
    mlp_ = {load.linear(mlp + "gate_proj", inner, d_model, bias), load.linear(mlp + "up_proj", inner, d_model, bias),
            load.linear(mlp + "down_proj", d_model, inner, bias)};
  }
}

FeedForward::Moe FeedForward::load_moe(const MoeSpec& moe, nn::Loader& load, const std::string& at, int d_model) {
  const int count = moe.router.experts;
  const auto stack = [&](const char* name, const std::string& apart, int out, int in) {
    return load.experts(
        at + "switch_mlp." + name, [&](int e) { return cat(at, "experts.", e, ".", apart); }, count, out, in);
  };
  Moe m;
  m.router = load.router(at + "gate", count, d_model);
  m.experts = {moe.router, stack("gate_proj", moe.gate, moe.d_ff, d_model), stack("up_proj", moe.up, moe.d_ff, d_model),
               stack("down_proj", moe.down, d_model, moe.d_ff)};
  if (moe.shared_d_ff > 0) m.shared_gate = load.linear(at + "shared_expert_gate", 1, d_model, false);
  return m;
}

void FeedForward::operator()(nn::Pass& p, const nn::RmsNorm& norm, nn::Residual& r) const {
  if (!moe_) {
    auto [gate, up] = p.linear(p.norm(r, norm), mlp_->gate, mlp_->up);  // [rows, d_ff] each
    r += run(p, *mlp_, std::move(gate), std::move(up));
    return;
  }
  const Moe& m = *moe_;
  const Tensor h = p.norm(r, norm);
  if (!mlp_) {
    r += p.experts(h, p.linear(h, m.router), m.experts);
    return;
  }
  auto [scores, open, gate, up] = p.linear(h, m.router, m.shared_gate, mlp_->gate, mlp_->up);
  r += p.experts(h, scores, m.experts);
  r += p.gate_rows(run(p, *mlp_, std::move(gate), std::move(up)), open);
}

/// Nobody else holds gate and up, so a backend may keep them within a kernel.
Tensor FeedForward::run(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up) {
  return p.linear(p.glu(Activation::silu, std::move(gate), std::move(up)), m.down);
}

}  // namespace bumblebee::models
