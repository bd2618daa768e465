// Forward words and, beside each, its way back. Factors are in tape_linear.cpp.
#include "train/tape_pass.h"

#include <utility>

#include "base/error.h"

namespace bumblebee::train {

TapePass::TapePass(Backend& backend, LoraParams& params, std::span<const int32_t> targets, const TapeOptions& options)
    : backend_(backend),
      ops_(backend.stream().ops()),
      grad_(require_grad_ops(backend)),
      params_(params),
      targets_(targets),
      options_(options),
      losses_(targets.size()) {}

double TapePass::forward(const nn::Model& model) {
  model.forward(*this);
  return loss_;
}

void TapePass::backward() {
  BB_CHECK(options_.learn, "a pass that does not learn has no way back");
  recompute_.clear();
  unwind();
  gradients_.clear();
}

void TapePass::unwind() {
  while (!tape_.empty()) {
    const std::function<void()> back = std::move(tape_.back());
    tape_.pop_back();  // what it keeps goes with it
    back();
  }
}

void TapePass::set_needs(const Tensor& tensor, bool needed) {
  recompute_.erase(key(tensor));  // of an older owner of the buffer
  if (needed) {
    needed_.insert(key(tensor));
  } else {
    needed_.erase(key(tensor));
  }
}

Tensor TapePass::consume(Key of) {
  const auto found = gradients_.find(of);
  if (found == gradients_.end()) return {};
  Tensor gradient = std::move(found->second);
  gradients_.erase(found);
  return gradient;
}

void TapePass::accumulate(Key to, Tensor gradient) {
  Tensor& sum = gradients_[to];
  if (sum) {
    ops_.add(sum, gradient);
  } else {
    sum = std::move(gradient);
  }
}

nn::Residual TapePass::embed(const nn::Embedding& embedding) { return {this, ops_.embed(embedding.table), {}}; }

void TapePass::flush_residual(nn::Residual& residual) {
  if (!residual.pending) return;
  const Key x = key(residual.x), delta = key(residual.pending);
  const bool x_needs = needs(residual.x), delta_needs = needs(residual.pending);
  ops_.add(residual.x, std::exchange(residual.pending, {}));
  if (!recording_) return;
  set_needs(residual.x, x_needs || delta_needs);
  if (!x_needs && !delta_needs) return;
  record([=, this, sum = key(residual.x)] {
    Tensor gradient = consume(sum);
    if (!gradient) return;
    if (delta_needs) accumulate(delta, gradient);
    if (x_needs) accumulate(x, std::move(gradient));
  });
}

Tensor TapePass::norm(nn::Residual& residual, const nn::RmsNorm& norm) {
  flush_residual(residual);
  Tensor y = ops_.rms_norm(residual.x, norm.params);
  if (!recording_) return y;
  set_needs(y, needs(residual.x));
  if (needs(residual.x)) {
    record([this, x = residual.x, y_key = key(y), &norm] {
      if (const Tensor dy = consume(y_key)) accumulate(key(x), grad_.rms_norm_dx(dy, x, norm.params));
    });
  }
  recompute_[key(y)] = [this, x = residual.x, &norm] { return ops_.rms_norm(x, norm.params); };
  return y;
}

Tensor TapePass::normalise(const Tensor& x, const nn::RmsNorm& norm) {
  Tensor y = ops_.rms_norm(x, norm.params);
  if (!recording_) return y;
  set_needs(y, needs(x));
  if (needs(x)) {
    record([this, x, y_key = key(y), &norm] {
      if (const Tensor dy = consume(y_key)) accumulate(key(x), grad_.rms_norm_dx(dy, x, norm.params));
    });
  }
  return y;
}

Tensor TapePass::scale(Tensor x, float factor) {
  const Key before = key(x);
  const bool x_needs = needs(x);
  ops_.multiply(x, factor);
  if (!recording_) return x;
  set_needs(x, x_needs);
  if (!x_needs) return x;
  record([=, this, after = key(x)] {
    Tensor gradient = consume(after);
    if (!gradient) return;
    ops_.multiply(gradient, factor);
    accumulate(before, std::move(gradient));
  });
  return x;
}

void TapePass::norm_rope(Tensor& q, Tensor& k, int head_dim, const nn::HeadNorms& norms, const RopeParams& rope) {
  const NormParams *q_norm = norms.present ? &norms.q.params : nullptr,
                   *k_norm = norms.present ? &norms.k.params : nullptr;
  const Key q_key = key(q), k_key = key(k);
  const bool q_needs = needs(q), k_needs = needs(k);
  const bool back = recording_ && (q_needs || k_needs);
  const Tensor q_before = back && norms.present ? q : Tensor{}, k_before = back && norms.present ? k : Tensor{};
  ops_.norm_rope(q, k, head_dim, q_norm, k_norm, rope);
  if (!recording_) return;
  set_needs(q, q_needs || k_needs);
  set_needs(k, q_needs || k_needs);
  if (!back) return;
  record([=, this, q_after = key(q), k_after = key(k), &rope] {
    Tensor dq = consume(q_after), dk = consume(k_after);
    if (!dq || !dk) return;
    grad_.norm_rope_dx(dq, dk, q_before, k_before, head_dim, q_norm, k_norm, rope);
    if (q_needs) accumulate(q_key, std::move(dq));
    if (k_needs) accumulate(k_key, std::move(dk));
  });
}

Tensor TapePass::attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) {
  Tensor lse;
  Tensor y = grad_.attend_packed(q, k, v, attention, lse);
  if (!recording_) return y;
  const bool qk_needs = needs(q) || needs(k), v_needs = needs(v);
  set_needs(y, qk_needs || v_needs);
  if (!qk_needs && !v_needs) return y;
  record([=, this, &attention] {
    const Tensor dy = consume(key(y));
    if (!dy) return;
    Tensor dq, dk, dv;
    grad_.attend_packed_dqkv(dy, q, k, v, y, lse, attention, dq, dk, dv);
    if (qk_needs) accumulate(key(q), std::move(dq));
    if (qk_needs) accumulate(key(k), std::move(dk));
    if (v_needs) accumulate(key(v), std::move(dv));
  });
  return y;
}

Tensor TapePass::glu(Activation activation, Tensor gate, Tensor up) {
  Tensor y = ops_.glu(activation, gate, up);
  if (!recording_) return y;
  const bool gate_needs = needs(gate), up_needs = needs(up);
  set_needs(y, gate_needs || up_needs);
  if (!gate_needs && !up_needs) return y;
  record([=, this, y_key = key(y)] {
    const Tensor dy = consume(y_key);
    if (!dy) return;
    Tensor dgate, dup;
    grad_.glu_dx(activation, dy, gate, up, dgate, dup);
    if (gate_needs) accumulate(key(gate), std::move(dgate));
    if (up_needs) accumulate(key(up), std::move(dup));
  });
  recompute_[key(y)] = [=, this] { return ops_.glu(activation, gate, up); };
  return y;
}

void TapePass::split(const Tensor&, const SplitParams&, std::span<Tensor>) { BB_UNREACHABLE(); }
Tensor TapePass::causal_conv(const Tensor&, const ConvParams&) { BB_UNREACHABLE(); }
Tensor TapePass::delta_rule(const Tensor&, const Tensor&, const Tensor&, const DeltaParams&) { BB_UNREACHABLE(); }
Tensor TapePass::matmul_heads(const Tensor&, const nn::HeadLinear&, int) { BB_UNREACHABLE(); }

Tensor TapePass::lookup(const nn::Embedding&) { BB_UNREACHABLE(); }
Tensor TapePass::add(Tensor, Tensor) { BB_UNREACHABLE(); }
Tensor TapePass::columns(const Tensor&, int, int) { BB_UNREACHABLE(); }
Tensor TapePass::soft_cap(Tensor, float) { BB_UNREACHABLE(); }

Tensor TapePass::head(nn::Residual& residual, const nn::RmsNorm& norm, const nn::Linear& head) {
  flush_residual(residual);
  const Tensor& x = residual.x;
  const std::vector<float> weights(targets_.size(), 1.0f);
  Tensor dh;
  const bool back = options_.learn && needs(x);
  loss_ = grad_.head_loss(ops_.rms_norm(x, norm.params), head.w, head.bias, targets_, weights, losses_,
                          back ? &dh : nullptr);
  if (back) accumulate(key(x), grad_.rms_norm_dx(dh, x, norm.params));
  return {};
}

void TapePass::layer(const nn::Model& model, int i, nn::Residual& residual) {
  const bool trained = options_.learn && i >= params_.first_layer();
  if (!trained || !options_.checkpoint_layers) {
    recording_ = trained;
    model.block(*this, i, residual);
    flush_residual(residual);
    recording_ = false;
    recompute_.clear();
    return;
  }
  const Tensor entry = residual.x;
  const bool entry_needs = i > params_.first_layer();
  model.block(*this, i, residual);
  flush_residual(residual);
  set_needs(residual.x, true);
  record([=, this, &model, exit = key(residual.x)] {
    Tensor gradient = consume(exit);
    if (!gradient) return;
    std::vector<std::function<void()>> rest = std::exchange(tape_, {});
    nn::Residual again{this, entry, {}};
    set_needs(entry, entry_needs);
    recording_ = true;
    model.block(*this, i, again);
    flush_residual(again);
    recording_ = false;
    accumulate(key(again.x), std::move(gradient));
    again = {};
    recompute_.clear();
    unwind();
    tape_ = std::move(rest);
  });
}

}  // namespace bumblebee::train
