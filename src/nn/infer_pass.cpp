// Words to operations. The decisions made here are about adapters: which modules they touch, and which of them make a
// bias wait or a norm an operation of its own.
#include "nn/infer_pass.h"

#include <array>
#include <utility>

namespace bumblebee::nn {

InferPass::InferPass(Ops& ops, KvStore& kv, const InferOptions& options) : options_(options), ops_(ops), kv_(kv) {
  if (options_.lora != nullptr && options_.lora->id == 0) options_.lora = nullptr;
}

Residual InferPass::embed(const Embedding& embedding) { return {this, rows_of(embedding), {}}; }

Tensor InferPass::normed(const Tensor& x, RowSet rows, const RmsNorm& norm) {
  return touched(norm.site) ? ops_.lora_norm(x, rows, x.cols(), norm.params, norm.site) : ops_.rms_norm(x, norm.params);
}

Tensor InferPass::norm(Residual& residual, const RmsNorm& norm) {
  if (touched(norm.site)) {
    flush_residual(residual);
    return normed(residual.x, RowSet::all, norm);
  }
  if (!residual.pending) return ops_.rms_norm(residual.x, norm.params);
  return ops_.add_rms_norm(residual.x, std::exchange(residual.pending, {}), norm.params);
}

Tensor InferPass::normalise(const Tensor& x, const RmsNorm& norm) {
  if (!touched(norm.site)) return ops_.rms_norm(x, norm.params);
  return ops_.lora_norm(x, RowSet::all, norm.params.w.cols(), norm.params, norm.site);
}

Tensor InferPass::lookup(const Embedding& table) { return rows_of(table); }

Tensor InferPass::rows_of(const Embedding& embedding) {
  Tensor x = ops_.embed(embedding.table);
  if (touched(embedding.site)) ops_.lora_embed(embedding.site, x);
  return x;
}

void InferPass::linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) {
  constexpr size_t kMost = 4;
  std::array<MatmulTerm, kMost> terms;
  std::array<Tensor, kMost> products;
  std::array<LoraModule, kMost> modules;
  std::array<size_t, kMost> place{};  // in y, of each term
  const size_t count = linears.size();
  BB_CHECK(count <= kMost);
  size_t multiplied = 0;
  bool adapted = false;
  for (size_t i = 0; i < count; ++i) {
    const Linear& linear = *linears[i];
    const Tensor* bias = linear.bias ? &linear.bias : nullptr;
    if (touched(linear.site)) {
      adapted = true;
      modules[i].site = linear.site;
      if (options_.lora->has(linear.site, LoraShape::before_bias)) modules[i].bias = std::exchange(bias, nullptr);
      modules[i].replaced = options_.lora->has(linear.site, LoraShape::replaced);
      if (modules[i].replaced) continue;
    }
    terms[multiplied] = {&linear.w, bias};
    place[multiplied++] = i;
  }
  if (multiplied > 0)
    ops_.matmul(x, std::span<const MatmulTerm>(terms.data(), multiplied), std::span(products.data(), multiplied));
  for (size_t i = 0; i < multiplied; ++i) y[place[i]] = std::move(products[i]);
  if (adapted) ops_.lora(x, rows_, std::span<const LoraModule>(modules.data(), count), y);
}

void InferPass::norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) {
  const NormParams *q_norm = norms.present && !norms.only_k ? &norms.q.params : nullptr,
                   *k_norm = norms.present ? &norms.k.params : nullptr;
  const auto apart = [&](Tensor& x, const RmsNorm& norm, const NormParams*& left) {
    if (!x || left == nullptr || !touched(norm.site)) return;
    x = ops_.lora_norm(x, RowSet::all, head_dim, norm.params, norm.site);
    left = nullptr;
  };
  apart(q, norms.q, q_norm);
  apart(k, norms.k, k_norm);
  ops_.norm_rope(q, k, head_dim, q_norm, k_norm, rope);
}

Tensor InferPass::attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) {
  BB_CHECK(layer_ >= 0, "attend outside a layer");
  return ops_.attend(kv_, layer_, q, k, v, attention);
}

void InferPass::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) { ops_.split(x, split, y); }

Tensor InferPass::causal_conv(const Tensor& x, const ConvParams& conv) {
  BB_CHECK(layer_ >= 0, "causal_conv outside a layer");
  return ops_.causal_conv(kv_, layer_, x, conv);
}

Tensor InferPass::delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) {
  BB_CHECK(layer_ >= 0, "delta_rule outside a layer");
  return ops_.delta_rule(kv_, layer_, qkv, a, b, delta);
}

Tensor InferPass::glu(Activation activation, Tensor gate, Tensor up) {
  return ops_.glu(activation, std::move(gate), std::move(up));
}

void InferPass::expert_linears(const Tensor& x, ExpertRows rows, const Routing& routing,
                               std::span<const ExpertLinear* const> stacks, std::span<Tensor> y) {
  constexpr size_t kMost = 2;
  std::array<const Weight*, kMost> weights;
  std::array<int, kMost> sites;
  std::array<Tensor, kMost> adapted;
  const size_t count = stacks.size();
  BB_CHECK(count <= kMost);
  for (size_t i = 0; i < count; ++i) weights[i] = &stacks[i]->w;
  ops_.matmul_experts(x, rows, routing, std::span(weights.data(), count), y);
  size_t touching = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!touched(stacks[i]->site)) continue;
    sites[touching] = stacks[i]->site;
    adapted[touching++] = std::move(y[i]);
  }
  if (touching == 0) return;
  ops_.lora_experts(x, rows, routing, std::span(sites.data(), touching), std::span(adapted.data(), touching));
  touching = 0;
  for (size_t i = 0; i < count; ++i) {
    if (touched(stacks[i]->site)) y[i] = std::move(adapted[touching++]);
  }
}

Tensor InferPass::experts(const Tensor& x, const Tensor& scores, const Experts& experts) {
  const Routing routing = ops_.route(scores, experts.router);
  routed(routing);
  const std::array<const ExpertLinear*, 2> into = {&experts.gate, &experts.up};
  std::array<Tensor, 2> wide;
  expert_linears(x, ExpertRows::batch, routing, into, wide);
  const auto add_bias = [&](Tensor& to, const ExpertLinear& linear) {
    if (linear.bias) ops_.add_expert_bias(to, routing, linear.bias);
  };
  add_bias(wide[0], experts.gate);
  add_bias(wide[1], experts.up);
  const Tensor h = ops_.glu(experts.activation, std::move(wide[0]), std::move(wide[1]));
  const ExpertLinear* const down = &experts.down;
  Tensor y;
  expert_linears(h, ExpertRows::assignments, routing, {&down, 1}, {&y, 1});
  add_bias(y, experts.down);
  return ops_.sum_experts(y, routing);
}

Tensor InferPass::matmul_heads(const Tensor& x, const HeadLinear& heads, int rest) {
  Tensor y = ops_.matmul_heads(x, heads.w, heads.transposed, rest);
  if (touched(heads.site)) ops_.lora_heads(x, heads.site, heads.w.experts, rest, y);
  return y;
}

Tensor InferPass::gate_rows(Tensor y, const Tensor& gate) { return ops_.gate_rows(std::move(y), gate); }

Tensor InferPass::scale(Tensor x, float factor) {
  ops_.multiply(x, factor);
  return x;
}

Tensor InferPass::add(Tensor a, Tensor b) {
  ops_.add(a, std::move(b));
  return a;
}

Tensor InferPass::columns(const Tensor& x, int first, int count) { return ops_.columns(x, first, count); }

Tensor InferPass::finished(Tensor logits, const LogitParams& params) {
  if (!logits) return logits;
  if (params.factor != 1) ops_.multiply(logits, params.factor);
  if (params.cap > 0) ops_.soft_cap(logits, params.cap);
  return logits;
}

Tensor InferPass::head(Residual& residual, const RmsNorm& norm, const Linear& head, const LogitParams& logits) {
  flush_residual(residual);
  if (options_.hidden) hidden_ = normed(residual.x, RowSet::all, norm);
  if (!options_.logits) return {};
  const Tensor h =
      options_.hidden ? ops_.gather_rows(hidden_) : normed(ops_.gather_rows(residual.x), RowSet::logit_rows, norm);
  rows_ = RowSet::logit_rows;
  Tensor y = InferPass::Pass::linear(h, head);
  rows_ = RowSet::all;
  return finished(std::move(y), logits);
}

void InferPass::layer(const Model& model, int i, Residual& residual) {
  layer_ = i;
  model.block(*this, i, residual);
  layer_ = -1;
}

bool InferPass::keep_logit_rows(Residual& residual) {
  if (options_.hidden) return true;
  if (!options_.logits) return false;
  flush_residual(residual);
  residual.x = ops_.gather_rows(residual.x);
  if (residual.aside) residual.aside = ops_.gather_rows(residual.aside);
  ops_.keep_logit_rows();
  return true;
}

void InferPass::flush_residual(Residual& residual) {
  if (residual.pending) ops_.add(residual.x, std::exchange(residual.pending, {}));
}

}  // namespace bumblebee::nn
