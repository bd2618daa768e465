// How Gemma 2 and 3 are loaded and what they compute.
#include "models/gemma.h"

#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "quant/elements.h"

namespace bumblebee::models {
namespace {

constexpr float kOne = 1;  // norms are stored as their distance from it

}  // namespace

float embedding_scale(const nn::Embedding& table, int width) {
  const DType type = table.table.format.scale;
  const float exact = float(std::sqrt(double(width)));
  if (type == DType::f32) return exact;
  std::array<std::byte, 2> rounded{};
  const DType narrow = type == DType::f16 ? DType::f16 : DType::bf16;
  store_float(rounded, narrow, 0, exact);
  return load_float(rounded, narrow, 0);
}

Gemma::Gemma(const GemmaSpec& spec, nn::Loader& load)
    : full_rope_(spec.full_rope), window_rope_(spec.window_rope), logits_cap_(spec.logits_cap) {
  dims_ = spec.dims;
  if (!spec.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  load.need(Operation::gelu);
  load.need(Operation::multiply);
  if (spec.attention_cap > 0 || spec.logits_cap > 0) load.need(Operation::soft_cap);
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  embedding_scale_ = embedding_scale(embedding_, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) blocks_.push_back(load_block(spec, load, i));
  final_norm_ = load.rms_norm("model.norm", dims_.d_model, spec.eps, kOne);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Gemma::Block Gemma::load_block(const GemmaSpec& spec, nn::Loader& load, int i) {
  const nn::ModelDims& d = spec.dims;
  const std::string at = "model.layers." + std::to_string(i) + ".";
  const int q_size = d.heads * d.head_dim, kv_size = d.kv_heads * d.head_dim;
  const auto norm = [&](const char* name, int size) { return load.rms_norm(at + name, size, spec.eps, kOne); };
  const auto linear = [&](const char* name, int out, int in, bool bias) {
    return load.linear(at + name, out, in, bias);
  };
  Block b;
  b.attention_norm = norm("input_layernorm", d.d_model);
  b.q = linear("self_attn.q_proj", q_size, d.d_model, spec.attention_bias);
  b.k = linear("self_attn.k_proj", kv_size, d.d_model, spec.attention_bias);
  b.v = linear("self_attn.v_proj", kv_size, d.d_model, spec.attention_bias);
  b.o = linear("self_attn.o_proj", d.d_model, q_size, spec.attention_bias);
  if (spec.head_norms)
    b.head_norms = {true, norm("self_attn.q_norm", d.head_dim), norm("self_attn.k_norm", d.head_dim)};
  load.ignore(at + "self_attn.rotary_emb.inv_freq");  // a buffer that old exporters saved
  b.after_attention = norm("post_attention_layernorm", d.d_model);
  b.mlp_norm = norm("pre_feedforward_layernorm", d.d_model);
  b.gate = linear("mlp.gate_proj", d.d_ff, d.d_model, false);
  b.up = linear("mlp.up_proj", d.d_ff, d.d_model, false);
  b.down = linear("mlp.down_proj", d.d_model, d.d_ff, false);
  b.after_mlp = norm("post_feedforward_layernorm", d.d_model);
  b.attention = {.heads = d.heads,
                 .kv_heads = d.kv_heads,
                 .head_dim = d.head_dim,
                 .scale = spec.scale,
                 .window = spec.windows[size_t(i)],
                 .soft_cap = spec.attention_cap};
  return b;
}

Tensor Gemma::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  p.scale_residual(r, embedding_scale_);
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_, {.cap = logits_cap_});  // [logit_rows, vocab]
}

void Gemma::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  auto [q, k, v] = p.linear(p.norm(r, b.attention_norm), b.q, b.k, b.v);  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  p.norm_rope(q, k, b.attention.head_dim, b.head_norms, b.attention.window > 0 ? window_rope_ : full_rope_);
  r += p.normalise(p.linear(p.attend(q, k, v, b.attention), b.o), b.after_attention);

  auto [gate, up] = p.linear(p.norm(r, b.mlp_norm), b.gate, b.up);  // [rows, d_ff] each
  r += p.normalise(p.linear(p.glu(Activation::gelu, std::move(gate), std::move(up)), b.down), b.after_mlp);
}

}  // namespace bumblebee::models
