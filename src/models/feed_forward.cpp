// One MLP, or a mixture of many.
#include "models/feed_forward.h"

#include <array>
#include <utility>

namespace bumblebee::models {

FeedForward::FeedForward(const MoeSpec& moe, const MlpSpec& plain, nn::Loader& load, int i, const std::string& at,
                         int d_model, float factor)
    : factor_(factor) {
  const bool sparse = !moe.layers.empty() && moe.layers[size_t(i)];
  if (sparse) moe_ = load_moe(moe, load, at + moe.block + ".", d_model);
  const std::string mlp = sparse ? at + moe.block + ".shared_expert." : at + plain.block + ".";
  const int inner = sparse ? moe.shared_d_ff : plain.d_ff;
  if (inner == 0) return;
  mlp_.emplace();
  if (plain.fused) {
    mlp_->gate_up = load.linear(mlp + plain.gate_up, 2 * inner, d_model, plain.bias);
    mlp_->halves.pieces = {{inner, 0}, {inner, 1}};
  } else {
    mlp_->gate = load.linear(mlp + plain.gate, inner, d_model, plain.bias);
    mlp_->up = load.linear(mlp + plain.up, inner, d_model, plain.bias);
  }
  mlp_->down = load.linear(mlp + plain.down, d_model, inner, plain.bias);
}

FeedForward::Moe FeedForward::load_moe(const MoeSpec& moe, nn::Loader& load, const std::string& at, int d_model) {
  const int count = moe.router.experts;
  const auto stack = [&](const char* name, const std::string& apart, int out, int in) {
    nn::ExpertLinear linear = load.experts(
        cat(at, moe.stack, ".", name), [&](int e) { return cat(at, "experts.", e, ".", apart); }, count, out, in);
    if (moe.bias) load.expert_bias(linear, count, out);
    return linear;
  };
  Moe m;
  m.router = load.router(at + moe.router_name, count, d_model, moe.bias);
  RouterParams router = moe.router;
  if (!moe.correction.empty()) router.bias = load.vector(at + moe.correction, count);
  m.experts = {std::move(router), stack("gate_proj", moe.gate, moe.d_ff, d_model),
               stack("up_proj", moe.up, moe.d_ff, d_model), stack("down_proj", moe.down, d_model, moe.d_ff),
               moe.activation};
  if (moe.activation == Activation::clamped_silu) load.need(Operation::clamped_glu);
  if (moe.shared_d_ff > 0) m.shared_gate = load.linear(at + "shared_expert_gate", 1, d_model, false);
  return m;
}

void FeedForward::operator()(nn::Pass& p, const nn::RmsNorm& norm, nn::Residual& r) const {
  if (!moe_) {
    std::array<Tensor, 2> wide;  // [rows, d_ff] each
    if (mlp_->gate_up) {
      p.split(p.linear(p.norm(r, norm), *mlp_->gate_up), mlp_->halves, wide);
    } else {
      wide = p.linear(p.norm(r, norm), mlp_->gate, mlp_->up);
    }
    return add(p, r, run(p, *mlp_, std::move(wide[0]), std::move(wide[1])));
  }
  const Moe& m = *moe_;
  const Tensor h = p.norm(r, norm);
  if (!mlp_) {
    return add(p, r, p.experts(h, p.linear(h, m.router), m.experts));
  }
  auto [scores, open, gate, up] = p.linear(h, m.router, m.shared_gate, mlp_->gate, mlp_->up);
  add(p, r, p.experts(h, scores, m.experts));
  add(p, r, p.gate_rows(run(p, *mlp_, std::move(gate), std::move(up)), open));
}

void FeedForward::add(nn::Pass& p, nn::Residual& r, Tensor y) const {
  r += factor_ == 1 ? std::move(y) : p.scale(std::move(y), factor_);
}

/// Nobody else holds gate and up, so a backend may keep them within a kernel.
Tensor FeedForward::run(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up) {
  return p.linear(p.glu(Activation::silu, std::move(gate), std::move(up)), m.down);
}

}  // namespace bumblebee::models
