// How a hybrid is loaded and what it computes. States, like caches, are nowhere in here.
#include "models/hybrid.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace bumblebee::models {

Hybrid::Hybrid(const DecoderSpec& spec, nn::Loader& load) : spec_(spec) {
  dims_ = spec.dims;
  const DeltaSpec& delta = *spec.delta;
  const int r = delta.value_heads / delta.key_heads;
  attention_ = {.heads = dims_.heads,
                .kv_heads = dims_.kv_heads,
                .head_dim = dims_.head_dim,
                .scale = float(1 / std::sqrt(double(dims_.head_dim)))};
  split_q_ = {dims_.heads, {{dims_.head_dim, 0}, {dims_.head_dim, 1}}};
  split_qkvz_ = {delta.key_heads,
                 {{delta.key_dim, 0}, {delta.key_dim, 0}, {r * delta.value_dim, 0}, {r * delta.value_dim, 1}}};
  split_ba_ = {delta.key_heads, {{r, 0}, {r, 1}}};
  load.need(Operation::delta_rule);
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  load.need(Operation::split);

  // The files of mlx-lm have the norms' weights as they multiply; those of transformers, which are known by their
  // convolutions, have what is added to one.
  std::vector<ConvParams> convs(size_t(dims_.layers));
  int by_torch = 0, recurrent = 0;
  const auto at = [](int i) { return "model.layers." + std::to_string(i) + "."; };
  for (int i = 0; i < dims_.layers; ++i) {
    if (!dims_.is_recurrent(i)) continue;
    bool torch = false;
    convs[size_t(i)] = load.depthwise(at(i) + "linear_attn.conv1d", delta.conv_cols(), delta.kernel, torch);
    by_torch += torch;
    ++recurrent;
  }
  if (by_torch != 0 && by_torch != recurrent) {
    throw Error(
        ErrorCode::bad_file, "checkpoint",
        cat("conv1d of ", recurrent, " layers: expected all as [cols, kernel, 1] or all as [cols, 1, kernel], got ",
            by_torch, " of the latter"));
  }
  const float offset = by_torch > 0 ? 1 : 0;
  const auto norm = [&](const std::string& path) { return load.rms_norm(path, dims_.d_model, spec_.eps, offset); };

  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) {
    Block b;
    b.norm = norm(at(i) + "input_layernorm");
    if (dims_.is_recurrent(i)) {
      b.delta = load_delta(load, at(i) + "linear_attn.", convs[size_t(i)]);
    } else {
      b.attention = load_attention(load, at(i) + "self_attn.", offset);
    }
    b.mlp_norm = norm(at(i) + "post_attention_layernorm");
    b.feed_forward = FeedForward(spec.moe, {.d_ff = dims_.d_ff}, load, i, at(i), dims_.d_model);
    blocks_.push_back(std::move(b));
  }
  final_norm_ = norm("model.norm");
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  if (spec.moe.router.experts > 0) {
    dims_.experts = spec.moe.router.experts;
    dims_.experts_per_token = spec.moe.router.top_k;
    dims_.d_expert = spec.moe.d_ff;
  }
  operations_ = load.operations();
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
}

Hybrid::DeltaNet Hybrid::load_delta(nn::Loader& load, const std::string& at, ConvParams conv) const {
  const DeltaSpec& s = *spec_.delta;
  const int d_model = dims_.d_model, values = s.value_heads * s.value_dim;
  DeltaNet d;
  if (s.fused) {
    d.qkvz = load.linear(at + "in_proj_qkvz", s.conv_cols() + values, d_model, false);
    d.ba = load.linear(at + "in_proj_ba", 2 * s.value_heads, d_model, false);
  } else {
    d.qkv = load.linear(at + "in_proj_qkv", s.conv_cols(), d_model, false);
    d.z = load.linear(at + "in_proj_z", values, d_model, false);
    d.b = load.linear(at + "in_proj_b", s.value_heads, d_model, false);
    d.a = load.linear(at + "in_proj_a", s.value_heads, d_model, false);
  }
  d.conv = std::move(conv);
  d.rule = {.key_heads = s.key_heads,
            .value_heads = s.value_heads,
            .key_dim = s.key_dim,
            .value_dim = s.value_dim,
            .a_log = load.vector(at + "A_log", s.value_heads),
            .dt_bias = load.vector(at + "dt_bias", s.value_heads)};
  d.norm = load.rms_norm(at + "norm", s.value_dim, spec_.eps);
  d.out = load.linear(at + "out_proj", d_model, values, false);
  return d;
}

Hybrid::Attention Hybrid::load_attention(nn::Loader& load, const std::string& at, float offset) const {
  const int heads = dims_.heads * dims_.head_dim, kv = dims_.kv_heads * dims_.head_dim, d_model = dims_.d_model;
  Attention a;
  a.q = load.linear(at + "q_proj", 2 * heads, d_model, spec_.qkv_bias);
  a.k = load.linear(at + "k_proj", kv, d_model, spec_.qkv_bias);
  a.v = load.linear(at + "v_proj", kv, d_model, spec_.qkv_bias);
  a.o = load.linear(at + "o_proj", d_model, heads, spec_.o_bias);
  a.norms = {true, load.rms_norm(at + "q_norm", dims_.head_dim, spec_.eps, offset),
             load.rms_norm(at + "k_norm", dims_.head_dim, spec_.eps, offset)};
  return a;
}

Tensor Hybrid::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_);  // [logit_rows, vocab]
}

void Hybrid::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  const Tensor h = p.norm(r, b.norm);
  r += b.delta ? delta_net(p, *b.delta, h) : attention(p, b.attention, h);
  b.feed_forward(p, b.mlp_norm, r);
}

Tensor Hybrid::delta_net(nn::Pass& p, const DeltaNet& d, const Tensor& h) const {
  std::array<Tensor, 2> qkv_z, b_a;  // [rows, conv_cols] [rows, values], [rows, value_heads] twice
  if (spec_.delta->fused) {
    const auto [qkvz, ba] = p.linear(h, d.qkvz, d.ba);
    p.split(qkvz, split_qkvz_, qkv_z);
    p.split(ba, split_ba_, b_a);
  } else {
    auto [qkv, z, b, a] = p.linear(h, d.qkv, d.z, d.b, d.a);
    qkv_z = {std::move(qkv), std::move(z)};
    b_a = {std::move(b), std::move(a)};
  }
  const Tensor y = p.delta_rule(p.causal_conv(qkv_z[0], d.conv), b_a[1], b_a[0], d.rule);  // [rows, values]
  return p.linear(p.glu(Activation::silu, std::move(qkv_z[1]), p.normalise(y, d.norm)), d.out);
}

Tensor Hybrid::attention(nn::Pass& p, const Attention& a, const Tensor& h) const {
  auto [q_gate, k, v] = p.linear(h, a.q, a.k, a.v);  // [rows, 2·heads·d] [rows, kv·d] [rows, kv·d]
  std::array<Tensor, 2> q;
  p.split(q_gate, split_q_, q);
  p.norm_rope(q[0], k, dims_.head_dim, a.norms, spec_.rope);
  Tensor y = p.attend(q[0], k, v, attention_);
  return p.linear(p.glu(Activation::sigmoid, std::move(q[1]), std::move(y)), a.o);
}

}  // namespace bumblebee::models
