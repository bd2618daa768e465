// How a decoder is loaded and what it computes. Devices, dtypes, quantization, adapters, caches and batching are not in
// here.
#include "models/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace bumblebee::models {

Decoder::Decoder(const DecoderSpec& spec, nn::Loader& load)
    : rope_(spec.rope),
      embedding_factor_(spec.embedding_factor),
      residual_factor_(spec.residual_factor),
      logits_factor_(spec.logits_factor) {
  dims_ = spec.dims;
  if (embedding_factor_ != 1 || residual_factor_ != 1 || logits_factor_ != 1) load.need(Operation::multiply);
  if (rope_.query_growth != 0) load.need(Operation::query_growth);
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  if (spec.fused) {
    load.need(Operation::split);
    split_qkv_.pieces = {
        {dims_.heads * dims_.head_dim, 0}, {dims_.kv_heads * dims_.head_dim, 1}, {dims_.kv_heads * dims_.head_dim, 2}};
  }
  if (std::find(spec.moe.layers.begin(), spec.moe.layers.end(), true) != spec.moe.layers.end()) {
    dims_.experts = spec.moe.router.experts;
    dims_.experts_per_token = spec.moe.router.top_k;
    dims_.d_expert = spec.moe.d_ff;
  }
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) blocks_.push_back(load_block(spec, load, i));
  final_norm_ = load.rms_norm("model.norm", dims_.d_model, spec.eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Decoder::Block Decoder::load_block(const DecoderSpec& spec, nn::Loader& load, int i) {
  const nn::ModelDims& d = spec.dims;
  const std::string at = "model.layers." + std::to_string(i) + ".";
  BB_CHECK(!spec.qk_norm || spec.rotates.empty(), "head norms without a rotation");
  const int q_size = d.heads * d.head_dim, kv_size = d.kv_heads * d.head_dim;
  Block b;
  b.attn_norm = load.rms_norm(at + "input_layernorm", d.d_model, spec.eps);
  if (spec.fused) {
    b.qkv = load.linear(at + "self_attn.qkv_proj", q_size + 2 * kv_size, d.d_model, spec.qkv_bias);
  } else {
    b.q = load.linear(at + "self_attn.q_proj", q_size, d.d_model, spec.qkv_bias);
    b.k = load.linear(at + "self_attn.k_proj", kv_size, d.d_model, spec.qkv_bias);
    b.v = load.linear(at + "self_attn.v_proj", kv_size, d.d_model, spec.qkv_bias);
  }
  b.o = load.linear(at + "self_attn.o_proj", d.d_model, q_size, spec.o_bias);
  if (spec.qk_norm) {
    b.qk_norm = {true, load.rms_norm(at + "self_attn.q_norm", d.head_dim, spec.eps),
                 load.rms_norm(at + "self_attn.k_norm", d.head_dim, spec.eps)};
  }
  load.ignore(at + "self_attn.rotary_emb.inv_freq");  // a buffer that old exporters saved
  b.mlp_norm = load.rms_norm(at + "post_attention_layernorm", d.d_model, spec.eps);
  MlpSpec mlp = {.d_ff = d.d_ff, .bias = spec.mlp_bias, .fused = spec.fused};
  if (spec.shared_mlp && load.has(at + "shared_mlp.input_linear.weight")) {
    mlp.fused = true;
    mlp.block = "shared_mlp";
    mlp.gate_up = "input_linear";
    mlp.down = "output_linear";
    load.need(Operation::split);
  }
  b.feed_forward = FeedForward(spec.moe, mlp, load, i, at, d.d_model, spec.residual_factor);
  b.rotates = spec.rotates.empty() || spec.rotates[size_t(i)];
  b.attention = {.heads = d.heads,
                 .kv_heads = d.kv_heads,
                 .head_dim = d.head_dim,
                 .scale = spec.attention_scale != 0 ? spec.attention_scale : float(1 / std::sqrt(double(d.head_dim))),
                 .window = spec.windows[size_t(i)]};
  if (spec.sinks) {
    b.attention.sinks = load.vector(at + "self_attn.sinks", d.heads);
    load.need(Operation::sinks);
  }
  return b;
}

Tensor Decoder::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  if (embedding_factor_ != 1) p.scale_residual(r, embedding_factor_);
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  Tensor logits = p.head(r, final_norm_, head_);  // [logit_rows, vocab]
  return logits_factor_ == 1 || !logits ? logits : p.scale(std::move(logits), logits_factor_);
}

void Decoder::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  std::array<Tensor, 3> qkv;  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  if (b.qkv) {
    p.split(p.linear(p.norm(r, b.attn_norm), *b.qkv), split_qkv_, qkv);
  } else {
    qkv = p.linear(p.norm(r, b.attn_norm), b.q, b.k, b.v);
  }
  auto& [q, k, v] = qkv;
  if (b.rotates) p.norm_rope(q, k, b.attention.head_dim, b.qk_norm, rope_);
  Tensor y = p.linear(p.attend(q, k, v, b.attention), b.o);
  r += residual_factor_ == 1 ? std::move(y) : p.scale(std::move(y), residual_factor_);
  b.feed_forward(p, b.mlp_norm, r);
}

}  // namespace bumblebee::models
