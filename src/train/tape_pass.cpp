// Forward words and, beside each, its way back. Factors are in tape_linear.cpp.
#include "train/tape_pass.h"

#include <algorithm>
#include <array>
#include <tuple>
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
  model_ = &model;
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
  const bool q_needs = needs(q), k_needs = k && needs(k), has_keys = bool(k);
  const bool back = recording_ && (q_needs || k_needs);
  const Tensor q_before = back && norms.present ? q : Tensor{}, k_before = back && norms.present ? k : Tensor{};
  ops_.norm_rope(q, k, head_dim, q_norm, k_norm, rope);
  if (!recording_) return;
  set_needs(q, q_needs || k_needs);
  if (has_keys) set_needs(k, q_needs || k_needs);
  if (!back) return;
  record([=, this, q_after = key(q), k_after = key(k), &rope] {
    Tensor dq = consume(q_after), dk = has_keys ? consume(k_after) : Tensor{};
    if (!dq || (has_keys && !dk)) return;
    grad_.norm_rope_dx(dq, dk, q_before, k_before, head_dim, q_norm, k_norm, rope);
    if (q_needs) accumulate(q_key, std::move(dq));
    if (k_needs) accumulate(k_key, std::move(dk));
  });
}

/// Null where nobody else reads the layer's keys and values.
TapePass::Cached* TapePass::shared_of_layer() {
  const std::vector<KvPlace>& places = model_->dims().kv_places;
  if (places.empty()) return nullptr;
  const KvPlace& own = places[size_t(layer_)];
  const auto same = [&](const KvPlace& p) { return p.group == own.group && p.index == own.index; };
  return std::count_if(places.begin(), places.end(), same) > 1 ? &shared_[{own.group, own.index}] : nullptr;
}

Tensor TapePass::attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) {
  Cached* const shared = shared_of_layer();
  if (!k) return attend_to(q, *shared, attention);
  const Cached own{k, v, recording_ && needs(k), recording_ && needs(v)};
  if (shared != nullptr && again_) {
    // Later layers have come back to the keys and values of the first time.
    for (const auto& [before, now, needed] :
         {std::tuple(&shared->k, &k, own.k_needs), std::tuple(&shared->v, &v, own.v_needs)}) {
      Tensor gradient = consume(key(*before));
      if (gradient && needed) accumulate(key(*now), std::move(gradient));
    }
    *shared = {};
  } else if (shared != nullptr) {
    *shared = own;
    // Where layers are computed twice, the first time does not tell.
    if (options_.learn && options_.checkpoint_layers && layer_ >= params_.first_layer())
      shared->k_needs = shared->v_needs = true;
  }
  return attend_to(q, own, attention);
}

Tensor TapePass::attend_to(const Tensor& q, const Cached& cached, const AttentionParams& attention) {
  Tensor lse;
  Tensor y = grad_.attend_packed(q, cached.k, cached.v, attention, lse);
  if (!recording_) return y;
  const bool q_needs = needs(q);
  set_needs(y, q_needs || cached.k_needs || cached.v_needs);
  if (!needs(y)) return y;
  record([=, this, &attention] {
    const Tensor dy = consume(key(y));
    if (!dy) return;
    Tensor dq, dk, dv;
    grad_.attend_packed_dqkv(dy, q, cached.k, cached.v, y, lse, attention, dq, dk, dv);
    if (q_needs) accumulate(key(q), std::move(dq));
    if (cached.k_needs) accumulate(key(cached.k), std::move(dk));
    if (cached.v_needs) accumulate(key(cached.v), std::move(dv));
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

void TapePass::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  ops_.split(x, split, y);
  if (!recording_) return;
  std::vector<Key> parts;
  for (const Tensor& part : y) {
    set_needs(part, needs(x));
    parts.push_back(key(part));
  }
  if (!needs(x)) return;
  record([this, &split, parts = std::move(parts), x_key = key(x)] {
    std::vector<Tensor> dy;
    bool any = false;
    for (const Key& part : parts) any = bool(dy.emplace_back(consume(part))) || any;
    if (any) accumulate(x_key, grad_.split_dx(dy, split));
  });
}

Tensor TapePass::causal_conv(const Tensor& x, const ConvParams& conv) {
  Tensor y = grad_.conv_packed(x, conv);
  if (!recording_) return y;
  set_needs(y, needs(x));
  if (!needs(x)) return y;
  record([this, x, &conv, y_key = key(y)] {
    if (const Tensor dy = consume(y_key)) accumulate(key(x), grad_.conv_packed_dx(dy, x, conv));
  });
  return y;
}

Tensor TapePass::delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) {
  Tensor y = grad_.delta_packed(qkv, a, b, delta);
  if (!recording_) return y;
  const bool needed[] = {needs(qkv), needs(a), needs(b)};
  const bool any = needed[0] || needed[1] || needed[2];
  set_needs(y, any);
  if (!any) return y;
  record([=, this, &delta, y_key = key(y)] {
    const Tensor dy = consume(y_key);
    if (!dy) return;
    Tensor dqkv, da, db;
    grad_.delta_packed_dx(dy, qkv, a, b, delta, dqkv, da, db);
    if (needed[0]) accumulate(key(qkv), std::move(dqkv));
    if (needed[1]) accumulate(key(a), std::move(da));
    if (needed[2]) accumulate(key(b), std::move(db));
  });
  return y;
}

/// Nobody comes to it: require_trainable() refuses before.
Tensor TapePass::matmul_heads(const Tensor&, const nn::HeadLinear&, int) { BB_UNREACHABLE(); }

Tensor TapePass::lookup(const nn::Embedding& table) {
  Tensor y = ops_.embed(table.table);
  if (recording_) set_needs(y, false);
  return y;
}

Tensor TapePass::add(Tensor a, Tensor b) {
  const Key a_key = key(a), b_key = key(b);
  const bool a_needs = needs(a), b_needs = needs(b);
  ops_.add(a, std::move(b));
  if (!recording_) return a;
  set_needs(a, a_needs || b_needs);
  if (!a_needs && !b_needs) return a;
  record([=, this, sum = key(a)] {
    Tensor gradient = consume(sum);
    if (!gradient) return;
    if (b_needs) accumulate(b_key, gradient);
    if (a_needs) accumulate(a_key, std::move(gradient));
  });
  return a;
}

Tensor TapePass::columns(const Tensor& x, int first, int count) {
  Tensor y = ops_.columns(x, first, count);
  if (!recording_) return y;
  set_needs(y, needs(x));
  if (!needs(x)) return y;
  SplitParams split{.pieces = {{first, 0}, {count, 1}, {x.cols() - first - count, 0}}};
  record([this, split = std::move(split), x_key = key(x), y_key = key(y)] {
    if (Tensor dy = consume(y_key)) accumulate(x_key, grad_.split_dx(std::array<Tensor, 2>{Tensor{}, dy}, split));
  });
  return y;
}

Tensor TapePass::head(nn::Residual& residual, const nn::RmsNorm& norm, const nn::Linear& head,
                      const LogitParams& logits) {
  flush_residual(residual);
  const Tensor& x = residual.x;
  const std::vector<float> weights(targets_.size(), 1.0f);
  Tensor dh;
  const bool back = options_.learn && needs(x);
  loss_ = grad_.head_loss(ops_.rms_norm(x, norm.params), head.w, head.bias, logits, targets_, weights, losses_,
                          back ? &dh : nullptr);
  if (back) accumulate(key(x), grad_.rms_norm_dx(dh, x, norm.params));
  return {};
}

void TapePass::layer(const nn::Model& model, int i, nn::Residual& residual) {
  layer_ = i;
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
  record([=, this, &model, aside = residual.aside, exit = key(residual.x)] {
    Tensor gradient = consume(exit);
    if (!gradient) return;
    std::vector<std::function<void()>> rest = std::exchange(tape_, {});
    nn::Residual again{this, entry, {}, aside};
    set_needs(entry, entry_needs);
    if (aside) set_needs(aside, false);
    layer_ = i;
    recording_ = again_ = true;
    model.block(*this, i, again);
    flush_residual(again);
    recording_ = again_ = false;
    accumulate(key(again.x), std::move(gradient));
    again = {};
    recompute_.clear();
    unwind();
    tape_ = std::move(rest);
  });
}

}  // namespace bumblebee::train
