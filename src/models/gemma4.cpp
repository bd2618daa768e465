// How Gemma 4 is loaded and what it computes.
#include "models/gemma4.h"

#include <cmath>
#include <tuple>
#include <utility>

namespace bumblebee::models {
namespace {

float inverse_root(int n) { return float(1 / std::sqrt(double(n))); }

void ignore_module(nn::Loader& load, const std::string& path) {
  for (const char* leaf : {".weight", ".scales", ".biases", ".bias"}) load.ignore(path + leaf);
}

}  // namespace

int Gemma4Spec::source(int i) const {
  if (i < shared_from) return i;
  int j = shared_from - 1;
  while (j > 0 && (windows[size_t(j)] > 0) != (windows[size_t(i)] > 0)) --j;
  return j;
}

Gemma4::Gemma4(const Gemma4Spec& spec, nn::Loader& load)
    : full_rope_(spec.full_rope),
      window_rope_(spec.window_rope),
      logits_cap_(spec.logits_cap),
      aside_width_(spec.aside),
      shared_from_(spec.shared_from) {
  dims_ = spec.dims;
  if (!spec.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  if (spec.router.experts > 0) {
    dims_.experts = spec.router.experts;
    dims_.experts_per_token = spec.router.top_k;
    dims_.d_expert = spec.d_expert;
  }
  set_caches(spec);
  for (const Operation operation : {Operation::gelu, Operation::multiply, Operation::norm_runs, Operation::mixed_cache})
    load.need(operation);
  if (logits_cap_ > 0) load.need(Operation::soft_cap);
  const int layers = dims_.layers, d_model = dims_.d_model;
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, d_model);
  embedding_scale_ = embedding_scale(embedding_, d_model);
  if (spec.aside > 0) {
    aside_ = {load.embedding("model.embed_tokens_per_layer", spec.aside_vocab, layers * spec.aside),
              load.linear("model.per_layer_model_projection", layers * spec.aside, d_model, false),
              load.rms_norm("model.per_layer_projection_norm", spec.aside, spec.eps)};
    aside_->scale = embedding_scale(aside_->table, spec.aside);
  }
  for (int i = 0; i < layers; ++i) blocks_.push_back(load_block(spec, load, i));
  final_norm_ = load.rms_norm("model.norm", d_model, spec.eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

void Gemma4::set_caches(const Gemma4Spec& spec) {
  const nn::ModelDims& d = spec.dims;
  KvGroup with_window = {.kind = KvGroup::Kind::attention, .kv_heads = d.kv_heads, .head_dim = d.head_dim},
          full = {.kind = KvGroup::Kind::attention, .kv_heads = spec.full_kv_heads, .head_dim = spec.full_head_dim};
  for (int i = 0; i < d.layers; ++i) {
    const int window = spec.windows[size_t(i)];
    if (const int source = spec.source(i); source != i) {
      dims_.kv_places.push_back(dims_.kv_places[size_t(source)]);
    } else if (window > 0) {
      with_window.window = window;
      dims_.kv_places.push_back({0, with_window.layers++});
    } else {
      dims_.kv_places.push_back({1, full.layers++});
    }
  }
  dims_.kv_groups = {with_window, full};
}

Gemma4::Attention Gemma4::load_attention(const Gemma4Spec& spec, nn::Loader& load, const std::string& at, int i) {
  const nn::ModelDims& d = spec.dims;
  const bool full = spec.windows[size_t(i)] == 0;
  const int head_dim = full ? spec.full_head_dim : d.head_dim, kv_heads = full ? spec.full_kv_heads : d.kv_heads;
  Attention a;
  a.own = spec.source(i) == i;
  a.keys_are_values = full && spec.keys_are_values;
  a.params = {.heads = d.heads,
              .kv_heads = kv_heads,
              .head_dim = head_dim,
              .scale = 1,  // queries and keys are normed
              .window = spec.windows[size_t(i)]};
  a.norms.present = true;
  a.q = load.linear(at + "q_proj", d.heads * head_dim, d.d_model, spec.attention_bias);
  a.norms.q = load.rms_norm(at + "q_norm", head_dim, spec.eps);
  if (a.own) {
    a.k = load.linear(at + "k_proj", kv_heads * head_dim, d.d_model, spec.attention_bias);
    a.norms.k = load.rms_norm(at + "k_norm", head_dim, spec.eps);
    if (!a.keys_are_values) a.v = load.linear(at + "v_proj", kv_heads * head_dim, d.d_model, spec.attention_bias);
    a.v_norm = load.plain_norm(at + "v_norm", head_dim, spec.eps);
  } else {
    for (const char* unused : {"k_proj", "v_proj", "k_norm", "v_norm"}) ignore_module(load, at + unused);
  }
  a.o = load.linear(at + "o_proj", d.d_model, d.heads * head_dim, spec.attention_bias);
  return a;
}

Gemma4::Moe Gemma4::load_moe(const Gemma4Spec& spec, nn::Loader& load, const std::string& at) {
  const int d_model = spec.dims.d_model, count = spec.router.experts;
  const auto norm = [&](const char* name) { return load.rms_norm(at + name, d_model, spec.eps); };
  const auto stack = [&](const char* name, int out, int in) {
    return load.experts(
        at + "experts.switch_glu." + name, [&](int e) { return cat(at, "experts.", e, ".", name); }, count, out, in);
  };
  Moe m;
  m.after_mlp = norm("post_feedforward_layernorm_1");
  m.router_norm = {{load.vector(at + "router.scale", d_model), float(spec.eps)}, at + "router.norm", -1};
  m.router = load.router(at + "router.proj", count, d_model);
  m.norm = norm("pre_feedforward_layernorm_2");
  m.experts = {spec.router, stack("gate_proj", spec.d_expert, d_model), stack("up_proj", spec.d_expert, d_model),
               stack("down_proj", d_model, spec.d_expert), Activation::gelu};
  m.experts.router.expert_scale = load.vector(at + "router.per_expert_scale", count);
  m.after = norm("post_feedforward_layernorm_2");
  return m;
}

Gemma4::Block Gemma4::load_block(const Gemma4Spec& spec, nn::Loader& load, int i) const {
  const int d_model = spec.dims.d_model;
  const std::string at = "model.layers." + std::to_string(i) + ".";
  const auto norm = [&](const char* name) { return load.rms_norm(at + name, d_model, spec.eps); };
  const auto linear = [&](const char* name, int out, int in) { return load.linear(at + name, out, in, false); };
  Block b;
  b.attention_norm = norm("input_layernorm");
  b.attention = load_attention(spec, load, at + "self_attn.", i);
  b.after_attention = norm("post_attention_layernorm");
  const int d_ff = spec.dims.d_ff * (spec.double_wide && !b.attention.own ? 2 : 1);
  b.mlp_norm = norm("pre_feedforward_layernorm");
  b.gate = linear("mlp.gate_proj", d_ff, d_model);
  b.up = linear("mlp.up_proj", d_ff, d_model);
  b.down = linear("mlp.down_proj", d_model, d_ff);
  if (spec.router.experts > 0) b.moe = load_moe(spec, load, at);
  b.after_mlp = norm("post_feedforward_layernorm");
  if (spec.aside > 0) {
    b.aside = {linear("per_layer_input_gate", spec.aside, d_model), linear("per_layer_projection", d_model, spec.aside),
               norm("post_per_layer_input_norm")};
  }
  if (load.has(at + "layer_scalar")) b.scale = load.scalar(at + "layer_scalar");
  return b;
}

Tensor Gemma4::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  p.scale_residual(r, embedding_scale_);
  if (aside_) r.aside = made_aside(p, r.x);
  for (int i = 0; i < dims_.layers; ++i) {
    if (i == shared_from_ && !p.keep_logit_rows(r)) return {};
    p.layer(*this, i, r);
  }
  Tensor logits = p.head(r, final_norm_, head_);  // [logit_rows, vocab]
  return logits_cap_ > 0 ? p.soft_cap(std::move(logits), logits_cap_) : logits;
}

/// [rows, layers·width]: what the table has for the token and what its embedding says, half of the variance each.
Tensor Gemma4::made_aside(nn::Pass& p, const Tensor& x) const {
  Tensor said = p.scale(p.linear(x, aside_->projection), inverse_root(dims_.d_model));
  said = p.normalise(said, aside_->norm);
  return p.scale(p.add(std::move(said), p.scale(p.lookup(aside_->table), aside_->scale)), inverse_root(2));
}

void Gemma4::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  r += p.normalise(attend(p, b.attention, p.norm(r, b.attention_norm)), b.after_attention);
  r += p.normalise(feed_forward(p, b, r), b.after_mlp);
  if (b.aside) {
    p.flush_residual(r);
    Tensor own = p.columns(r.aside, i * aside_width_, aside_width_);  // [rows, width]
    own = p.glu(Activation::gelu, p.linear(r.x, b.aside->gate), std::move(own));
    r += p.normalise(p.linear(own, b.aside->projection), b.aside->after);
  }
  if (b.scale != 1) p.scale_residual(r, b.scale);
}

Tensor Gemma4::attend(nn::Pass& p, const Attention& a, const Tensor& h) const {
  Tensor q, k, v;  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  if (!a.own) {
    q = p.linear(h, a.q);
  } else if (a.keys_are_values) {
    std::tie(q, k) = std::tuple_cat(p.linear(h, a.q, a.k));
    v = p.normalise(k, a.v_norm);
  } else {
    std::tie(q, k, v) = std::tuple_cat(p.linear(h, a.q, a.k, a.v));
    v = p.normalise(v, a.v_norm);
  }
  p.norm_rope(q, k, a.params.head_dim, a.norms, a.params.window > 0 ? window_rope_ : full_rope_);
  return p.linear(p.attend(q, k, v, a.params), a.o);
}

Tensor Gemma4::feed_forward(nn::Pass& p, const Block& b, nn::Residual& r) const {
  auto [gate, up] = p.linear(p.norm(r, b.mlp_norm), b.gate, b.up);  // [rows, d_ff] each
  Tensor y = p.linear(p.glu(Activation::gelu, std::move(gate), std::move(up)), b.down);
  if (!b.moe) return y;
  const Moe& m = *b.moe;
  y = p.normalise(y, m.after_mlp);
  // The norm has settled the stream: the router and the experts see what the MLP saw.
  const Tensor scores =
      p.linear(p.scale(p.normalise(r.x, m.router_norm), inverse_root(dims_.d_model)), m.router);  // [rows, experts]
  return p.add(std::move(y), p.normalise(p.experts(p.normalise(r.x, m.norm), scores, m.experts), m.after));
}

}  // namespace bumblebee::models
