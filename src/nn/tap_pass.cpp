// Names for intermediates. Modules are known by the last word of their path; the names here are those of the golden
// files.
#include "nn/tap_pass.h"

#include <string_view>
#include <utility>

namespace bumblebee::nn {
namespace {

/// "model.layers.3.self_attn.q_proj" -> "q", "…input_layernorm" -> "attn_norm".
std::string short_name(std::string_view path) {
  const std::string_view last = path.substr(path.rfind('.') + 1);
  if (last == "input_layernorm") return "attn_norm";
  if (last == "post_attention_layernorm") return "mlp_norm";
  if (last == "gate") return "router";
  if (last.ends_with("_proj")) return std::string(last.substr(0, last.size() - 5));
  return std::string(last);
}

}  // namespace

TapPass::TapPass(Ops& ops, KvStore& kv, Tap tap, const InferOptions& options)
    : InferPass(ops, kv, options), tap_(std::move(tap)) {
  options_.hidden = true;
}

void TapPass::show(const std::string& name, const Tensor& value) {
  const std::string whole = current_layer() < 0 ? name : "layers." + std::to_string(current_layer()) + "." + name;
  const int times = ++shown_[whole];
  tap_(times == 1 ? whole : whole + "_" + std::to_string(times), value);
}

Residual TapPass::embed(const Embedding& embedding) {
  Residual r = InferPass::embed(embedding);
  r.pass = this;
  show("embed", r.x);
  return r;
}

Tensor TapPass::norm(Residual& residual, const RmsNorm& norm) {
  Tensor y = InferPass::norm(residual, norm);
  show(short_name(norm.name), y);
  return y;
}

Tensor TapPass::normalise(const Tensor& x, const RmsNorm& norm) {
  Tensor y = InferPass::normalise(x, norm);
  const bool of_heads = norm.name.ends_with("linear_attn.norm");
  show(of_heads ? "head_norm" : norm.name.substr(norm.name.rfind('.') + 1), y);
  return y;
}

Tensor TapPass::lookup(const Embedding& table) {
  Tensor y = InferPass::lookup(table);
  show(short_name(table.name), y);
  return y;
}

void TapPass::linear(const Tensor& x, std::span<const Linear* const> linears, std::span<Tensor> y) {
  InferPass::linear(x, linears, y);
  for (size_t i = 0; i < linears.size(); ++i) show(short_name(linears[i]->name), y[i]);
}

void TapPass::norm_rope(Tensor& q, Tensor& k, int head_dim, const HeadNorms& norms, const RopeParams& rope) {
  InferPass::norm_rope(q, k, head_dim, norms, rope);
  show("q_rope", q);
  if (k) show("k_rope", k);
}

Tensor TapPass::attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& attention) {
  Tensor y = InferPass::attend(q, k, v, attention);
  show("attn", y);
  return y;
}

void TapPass::split(const Tensor& x, const SplitParams& split, std::span<Tensor> y) {
  InferPass::split(x, split, y);
  for (size_t i = 0; i < y.size(); ++i) show(("part" + std::to_string(i)).c_str(), y[i]);
}

Tensor TapPass::causal_conv(const Tensor& x, const ConvParams& conv) {
  Tensor y = InferPass::causal_conv(x, conv);
  show("conv", y);
  return y;
}

Tensor TapPass::delta_rule(const Tensor& qkv, const Tensor& a, const Tensor& b, const DeltaParams& delta) {
  Tensor y = InferPass::delta_rule(qkv, a, b, delta);
  show("delta", y);
  return y;
}

Tensor TapPass::glu(Activation activation, Tensor gate, Tensor up) {
  Tensor y = InferPass::glu(activation, std::move(gate), std::move(up));
  show("glu", y);
  return y;
}

Tensor TapPass::experts(const Tensor& x, const Tensor& scores, const Experts& experts) {
  Tensor y = InferPass::experts(x, scores, experts);
  show("experts", y);
  return y;
}

Tensor TapPass::matmul_heads(const Tensor& x, const HeadLinear& heads, int rest) {
  Tensor y = InferPass::matmul_heads(x, heads, rest);
  show(heads.name.substr(heads.name.rfind('.') + 1).c_str(), y);
  return y;
}

Tensor TapPass::gate_rows(Tensor y, const Tensor& gate) {
  Tensor gated = InferPass::gate_rows(std::move(y), gate);
  show("gated", gated);
  return gated;
}

Tensor TapPass::soft_cap(Tensor x, float cap) {
  Tensor y = InferPass::soft_cap(std::move(x), cap);
  show("capped", y);
  return y;
}

Tensor TapPass::scale(Tensor x, float factor) {
  Tensor y = InferPass::scale(std::move(x), factor);
  if (after_head_) show("scaled_logits", y);
  return y;
}

Tensor TapPass::head(Residual& residual, const RmsNorm& norm, const Linear& head) {
  Tensor y = InferPass::head(residual, norm, head);
  show("final_norm", hidden());
  show("logits", y);
  after_head_ = true;
  return y;
}

}  // namespace bumblebee::nn
