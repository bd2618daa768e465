// How GLM-4 is read, loaded and computed.
#include "models/glm4.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <string>
#include <utility>

namespace bumblebee::models {

DecoderSpec read_glm4(const Json& config, std::string_view where) {
  Json rest = config;
  if (!has_key(config, "num_key_value_heads")) rest["num_key_value_heads"] = 2;
  DecoderSpec spec =
      read_common(rest, where, {.eps = 1.5625e-7, .theta = 10000, .context = 131072, .rotary = 0.5, .head_dim = 128});
  refuse_layer_types(config, where);
  spec.qkv_bias = bool_or(config, "attention_bias", where, true);
  spec.rope.interleaved = true;
  return spec;
}

Glm4::Glm4(const DecoderSpec& spec, nn::Loader& load) : rope_(spec.rope) {
  dims_ = spec.dims;
  if (!spec.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  attention_ = {.heads = dims_.heads,
                .kv_heads = dims_.kv_heads,
                .head_dim = dims_.head_dim,
                .scale = float(1 / std::sqrt(double(dims_.head_dim)))};
  halves_.pieces = {{dims_.d_ff, 0}, {dims_.d_ff, 1}};
  load.need(Operation::split);
  load.need(Operation::rope_pairs);
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) blocks_.push_back(load_block(spec, load, i));
  final_norm_ = load.rms_norm("model.norm", dims_.d_model, spec.eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Glm4::Block Glm4::load_block(const DecoderSpec& spec, nn::Loader& load, int i) {
  const nn::ModelDims& d = spec.dims;
  const std::string at = "model.layers." + std::to_string(i) + ".";
  const int q_size = d.heads * d.head_dim, kv_size = d.kv_heads * d.head_dim;
  const auto norm = [&](const char* name) { return load.rms_norm(at + name, d.d_model, spec.eps); };
  Block b;
  b.attention_norm = norm("input_layernorm");
  b.q = load.linear(at + "self_attn.q_proj", q_size, d.d_model, spec.qkv_bias);
  b.k = load.linear(at + "self_attn.k_proj", kv_size, d.d_model, spec.qkv_bias);
  b.v = load.linear(at + "self_attn.v_proj", kv_size, d.d_model, spec.qkv_bias);
  b.o = load.linear(at + "self_attn.o_proj", d.d_model, q_size, false);
  b.after_attention = norm("post_self_attn_layernorm");
  b.mlp_norm = norm("post_attention_layernorm");
  b.gate_up = load.linear(at + "mlp.gate_up_proj", 2 * d.d_ff, d.d_model, false);
  b.down = load.linear(at + "mlp.down_proj", d.d_model, d.d_ff, false);
  b.after_mlp = norm("post_mlp_layernorm");
  return b;
}

Tensor Glm4::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_);  // [logit_rows, vocab]
}

void Glm4::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  auto [q, k, v] = p.linear(p.norm(r, b.attention_norm), b.q, b.k, b.v);  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  p.norm_rope(q, k, dims_.head_dim, {}, rope_);
  r += p.normalise(p.linear(p.attend(q, k, v, attention_), b.o), b.after_attention);

  std::array<Tensor, 2> wide;  // [rows, d_ff] each
  p.split(p.linear(p.norm(r, b.mlp_norm), b.gate_up), halves_, wide);
  r += p.normalise(p.linear(p.glu(Activation::silu, std::move(wide[0]), std::move(wide[1])), b.down), b.after_mlp);
}

}  // namespace bumblebee::models
