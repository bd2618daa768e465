// How LFM2 is loaded and what it computes. States, like caches, are nowhere in here.
#include "models/lfm2.h"

#include <array>
#include <cmath>
#include <utility>

namespace bumblebee::models {

Lfm2::Lfm2(const Lfm2Spec& spec, nn::Loader& load) : rope_(spec.decoder.rope) {
  dims_ = spec.decoder.dims;
  if (!spec.decoder.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  attention_ = {.heads = dims_.heads,
                .kv_heads = dims_.kv_heads,
                .head_dim = dims_.head_dim,
                .scale = float(1 / std::sqrt(double(dims_.head_dim)))};
  thirds_.pieces = {{dims_.d_model, 0}, {dims_.d_model, 1}, {dims_.d_model, 2}};
  load.need(Operation::short_conv);
  load.need(Operation::split);
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  const double eps = spec.decoder.eps;
  MlpSpec mlp = {.d_ff = dims_.d_ff, .block = "feed_forward", .gate = "w1", .up = "w3", .down = "w2"};
  // mlx-lm calls those beside experts as other families do.
  if (!spec.decoder.moe.layers.empty() && !load.has_module("model.layers.0.feed_forward.w1"))
    mlp = {.d_ff = dims_.d_ff, .block = "feed_forward"};
  if (!spec.decoder.moe.layers.empty()) {
    dims_.experts = spec.decoder.moe.router.experts;
    dims_.experts_per_token = spec.decoder.moe.router.top_k;
    dims_.d_expert = spec.decoder.moe.d_ff;
  }
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    Block b;
    b.norm = load.rms_norm(at + "operator_norm", dims_.d_model, eps);
    if (dims_.is_recurrent(i)) {
      b.conv = load_conv(spec, load, at + "conv.");
    } else {
      b.attention = load_attention(spec.decoder, load, at + "self_attn.");
    }
    b.mlp_norm = load.rms_norm(at + "ffn_norm", dims_.d_model, eps);
    b.feed_forward = FeedForward(spec.decoder.moe, mlp, load, i, at, dims_.d_model);
    blocks_.push_back(std::move(b));
  }
  final_norm_ = load.rms_norm("model.embedding_norm", dims_.d_model, eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Lfm2::ShortConv Lfm2::load_conv(const Lfm2Spec& spec, nn::Loader& load, const std::string& at) {
  const int d_model = spec.decoder.dims.d_model;
  ShortConv c;
  c.in = load.linear(at + "in_proj", 3 * d_model, d_model, false);
  bool by_torch = false;  // files of either layout hold the same numbers
  c.conv = load.depthwise(at + "conv", d_model, spec.kernel, by_torch);
  c.conv.silu = false;
  c.out = load.linear(at + "out_proj", d_model, d_model, false);
  return c;
}

Lfm2::Attention Lfm2::load_attention(const DecoderSpec& spec, nn::Loader& load, const std::string& at) {
  const nn::ModelDims& d = spec.dims;
  const int heads = d.heads * d.head_dim, kv = d.kv_heads * d.head_dim;
  Attention a;
  a.q = load.linear(at + "q_proj", heads, d.d_model, false);
  a.k = load.linear(at + "k_proj", kv, d.d_model, false);
  a.v = load.linear(at + "v_proj", kv, d.d_model, false);
  a.o = load.linear(at + "out_proj", d.d_model, heads, false);
  a.norms = {true, load.rms_norm(at + "q_layernorm", d.head_dim, spec.eps),
             load.rms_norm(at + "k_layernorm", d.head_dim, spec.eps)};
  return a;
}

Tensor Lfm2::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_);  // [logit_rows, vocab]
}

void Lfm2::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  const Tensor h = p.norm(r, b.norm);
  r += b.conv ? short_conv(p, *b.conv, h) : attention(p, b.attention, h);
  b.feed_forward(p, b.mlp_norm, r);
}

Tensor Lfm2::short_conv(nn::Pass& p, const ShortConv& c, const Tensor& h) const {
  std::array<Tensor, 3> parts;  // [rows, d_model]: the gates before and after, and what passes them
  p.split(p.linear(h, c.in), thirds_, parts);
  auto& [before, after, x] = parts;
  const Tensor y = p.causal_conv(p.glu(Activation::identity, std::move(before), std::move(x)), c.conv);
  return p.linear(p.glu(Activation::identity, std::move(after), y), c.out);
}

Tensor Lfm2::attention(nn::Pass& p, const Attention& a, const Tensor& h) const {
  auto [q, k, v] = p.linear(h, a.q, a.k, a.v);  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  p.norm_rope(q, k, dims_.head_dim, a.norms, rope_);
  return p.linear(p.attend(q, k, v, attention_), a.o);
}

}  // namespace bumblebee::models
