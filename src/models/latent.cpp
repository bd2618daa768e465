// How a decoder with latent attention is loaded and what it computes.
#include "models/latent.h"

#include <algorithm>
#include <string>
#include <utility>

namespace bumblebee::models {
namespace {

constexpr double kLatentEps = 1e-6;  // of the latents' norms, whatever rms_norm_eps is

}  // namespace

Latent::Latent(const LatentSpec& spec, nn::Loader& load) : spec_(spec) {
  dims_ = spec.dims;
  if (!spec.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  if (std::find(spec.sparse.begin(), spec.sparse.end(), true) != spec.sparse.end()) {
    dims_.experts = spec.router.experts;
    dims_.experts_per_token = spec.router.top_k;
    dims_.d_expert = spec.d_expert;
  }
  const int key_dim = spec.kv_rank + spec.rope_dim;
  attention_ = {
      .heads = dims_.heads, .kv_heads = 1, .head_dim = key_dim, .scale = spec.scale, .value_dim = spec.kv_rank};
  dims_.kv_groups = {{.kind = KvGroup::Kind::attention,
                      .layers = dims_.layers,
                      .kv_heads = 1,
                      .head_dim = key_dim,
                      .value_dim = spec.kv_rank}};
  load.need(Operation::latent_keys);
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) blocks_.push_back(load_block(load, i));
  for (int i = 0; i < spec.further_layers; ++i) load.leave_out(cat("model.layers.", dims_.layers + i, "."));
  final_norm_ = load.rms_norm("model.norm", dims_.d_model, spec.eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Latent::Block Latent::load_block(nn::Loader& load, int i) const {
  const std::string at = "model.layers." + std::to_string(i) + ".";
  const int d_model = dims_.d_model;
  Block b;
  b.attn_norm = load.rms_norm(at + "input_layernorm", d_model, spec_.eps);
  load_attention(load, at + "self_attn.", b);
  b.mlp_norm = load.rms_norm(at + "post_attention_layernorm", d_model, spec_.eps);
  const bool sparse = spec_.sparse[size_t(i)];
  if (sparse) b.moe = load_moe(load, at + "mlp.");
  const std::string mlp = sparse ? at + "mlp.shared_experts." : at + "mlp.";
  if (const int inner = sparse ? spec_.shared_d_ff : dims_.d_ff; inner > 0) {
    b.mlp = {load.linear(mlp + "gate_proj", inner, d_model, spec_.mlp_bias),
             load.linear(mlp + "up_proj", inner, d_model, spec_.mlp_bias),
             load.linear(mlp + "down_proj", d_model, inner, spec_.mlp_bias)};
  }
  return b;
}

void Latent::load_attention(nn::Loader& load, const std::string& at, Block& b) const {
  const LatentSpec& s = spec_;
  const int heads = dims_.heads, d_model = dims_.d_model, q_size = heads * (s.nope_dim + s.rope_dim);
  if (s.q_rank > 0) {
    b.q_a = load.linear(at + "q_a_proj", s.q_rank, d_model, s.attention_bias);
    b.q_norm = load.rms_norm(at + "q_a_layernorm", s.q_rank, kLatentEps);
    b.q = load.linear(at + "q_b_proj", q_size, s.q_rank, false);
  } else {
    b.q = load.linear(at + "q_proj", q_size, d_model, false);
  }
  b.kv = load.linear(at + "kv_a_proj_with_mqa", s.kv_rank + s.rope_dim, d_model, s.attention_bias);
  b.norms = {
      .present = true, .q = {}, .k = load.rms_norm(at + "kv_a_layernorm", s.kv_rank, kLatentEps), .only_k = true};
  if (load.has_module(at + "kv_b_proj")) {
    std::tie(b.embed_q, b.unembed_out) = load.split_heads(at + "kv_b_proj", heads, s.nope_dim, s.value_dim, s.kv_rank,
                                                          {at + "embed_q", at + "unembed_out"});
  } else {
    b.embed_q = load.heads(at + "embed_q", heads, s.kv_rank, s.nope_dim);
    b.unembed_out = load.heads(at + "unembed_out", heads, s.value_dim, s.kv_rank);
  }
  b.o = load.linear(at + "o_proj", d_model, heads * s.value_dim, s.attention_bias);
  load.ignore(at + "rotary_emb.inv_freq");  // a buffer that old exporters saved
}

Latent::Moe Latent::load_moe(nn::Loader& load, const std::string& at) const {
  const int d_model = dims_.d_model, count = spec_.router.experts;
  const auto stack = [&](const char* name, int out, int in) {
    return load.experts(
        at + "switch_mlp." + name, [&](int e) { return cat(at, "experts.", e, ".", name); }, count, out, in);
  };
  Moe m;
  m.router = load.router(at + "gate", count, d_model);
  RouterParams router = spec_.router;
  if (spec_.corrected) router.bias = load.vector(at + "gate.e_score_correction_bias", count);
  m.experts = {std::move(router), stack("gate_proj", spec_.d_expert, d_model),
               stack("up_proj", spec_.d_expert, d_model), stack("down_proj", d_model, spec_.d_expert)};
  return m;
}

Tensor Latent::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_);  // [logit_rows, vocab]
}

Tensor Latent::attend(nn::Pass& p, const Block& b, const Tensor& h) const {
  auto [q, kv] = p.linear(h, b.q_a ? *b.q_a : b.q, b.kv);  // [rows, heads·(nope + rope)] [rows, kv_rank + rope]
  if (b.q_a) q = p.linear(p.normalise(q, b.q_norm), b.q);
  q = p.matmul_heads(q, b.embed_q, spec_.rope_dim);  // [rows, heads·(kv_rank + rope)]
  p.norm_rope(q, kv, attention_.head_dim, b.norms, spec_.rope);
  return p.linear(p.matmul_heads(p.attend(q, kv, {}, attention_), b.unembed_out, 0), b.o);
}

void Latent::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  r += attend(p, b, p.norm(r, b.attn_norm));
  const Tensor h = p.norm(r, b.mlp_norm);
  if (!b.moe) {
    auto [gate, up] = p.linear(h, b.mlp->gate, b.mlp->up);  // [rows, d_ff] each
    r += mlp(p, *b.mlp, std::move(gate), std::move(up));
    return;
  }
  if (!b.mlp) {
    r += p.experts(h, p.linear(h, b.moe->router), b.moe->experts);
    return;
  }
  auto [scores, gate, up] = p.linear(h, b.moe->router, b.mlp->gate, b.mlp->up);
  r += p.experts(h, scores, b.moe->experts);
  r += mlp(p, *b.mlp, std::move(gate), std::move(up));
}

/// Nobody else holds gate and up, so a backend may keep them within a kernel.
Tensor Latent::mlp(nn::Pass& p, const Mlp& m, Tensor gate, Tensor up) {
  return p.linear(p.glu(Activation::silu, std::move(gate), std::move(up)), m.down);
}

}  // namespace bumblebee::models
