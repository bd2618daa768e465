// How OLMo 2 and 3 are read, loaded and computed.
#include "models/olmo.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "models/rope.h"

namespace bumblebee::models {

OlmoSpec read_olmo2(const Json& config, std::string_view where) {
  OlmoSpec spec{read_common(config, where, {.eps = 1e-5, .theta = 10000}), {}};
  refuse_layer_types(config, where);
  spec.decoder.qkv_bias = spec.decoder.o_bias = bool_or(config, "attention_bias", where, false);
  spec.window_rope = spec.decoder.rope;
  return spec;
}

OlmoSpec read_olmo3(const Json& config, std::string_view where) {
  Json rest = config;  // but for the rotations, of which there are two
  for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"}) rest.erase(key);
  OlmoSpec spec{read_common(rest, where, {.eps = 1e-5, .theta = 500000}), {}};
  DecoderSpec& decoder = spec.decoder;
  nn::ModelDims& d = decoder.dims;
  decoder.qkv_bias = decoder.o_bias = bool_or(config, "attention_bias", where, false);

  const auto said = config.find("sliding_window");
  if (said != config.end() && said->is_null())
    throw Error(ErrorCode::bad_config, where, "'sliding_window': expected a positive number, got null");
  const int window = int(int_or(config, "sliding_window", where, 1, int64_t{1} << 30, 4096));
  if (!read_layer_windows(config, where, window, decoder)) {
    for (int i = 0; i < d.layers; ++i) decoder.windows[size_t(i)] = (i + 1) % 4 != 0 ? window : 0;
  }

  const Json plain = {{"rope_theta", 500000.0}, {"rope_type", "default"}};
  const auto rope = [&](const char* kind, const char* scaling) {
    const Json settings =
        rope_settings_of_kind(config, where, kind, {.theta = "rope_theta", .scaling = scaling}, plain);
    return read_rope(settings, where, d.head_dim, d.context, 500000);
  };
  spec.window_rope = one_rotation(rope("sliding_attention", nullptr), where);
  Rope full = rope("full_attention", "rope_scaling");
  d.context = full.context;
  decoder.rope = one_rotation(std::move(full), where);
  return spec;
}

Olmo::Olmo(const OlmoSpec& spec, nn::Loader& load) : full_rope_(spec.decoder.rope), window_rope_(spec.window_rope) {
  dims_ = spec.decoder.dims;
  if (dims_.stretch_beyond > 0) load.need(Operation::long_rope);
  if (!spec.decoder.tied_known) dims_.tied_head = !load.has("lm_head.weight");
  embedding_ = load.embedding("model.embed_tokens", dims_.vocab, dims_.d_model);
  for (int i = 0; i < dims_.layers; ++i) blocks_.push_back(load_block(spec.decoder, load, i));
  final_norm_ = load.rms_norm("model.norm", dims_.d_model, spec.decoder.eps);
  head_ = load.head("lm_head", embedding_, dims_.vocab, dims_.d_model, dims_.tied_head);
  target_modules_ = load.target_modules();
  target_weights_ = load.target_weights();
  operations_ = load.operations();
}

Olmo::Block Olmo::load_block(const DecoderSpec& spec, nn::Loader& load, int i) {
  const nn::ModelDims& d = spec.dims;
  const std::string at = "model.layers." + std::to_string(i) + ".";
  const int q_size = d.heads * d.head_dim, kv_size = d.kv_heads * d.head_dim;
  const auto norm = [&](const char* name, int size) { return load.rms_norm(at + name, size, spec.eps); };
  const auto linear = [&](const char* name, int out, int in, bool bias) {
    return load.linear(at + name, out, in, bias);
  };
  Block b;
  b.q = linear("self_attn.q_proj", q_size, d.d_model, spec.qkv_bias);
  b.k = linear("self_attn.k_proj", kv_size, d.d_model, spec.qkv_bias);
  b.v = linear("self_attn.v_proj", kv_size, d.d_model, spec.qkv_bias);
  b.o = linear("self_attn.o_proj", d.d_model, q_size, spec.o_bias);
  b.q_norm = norm("self_attn.q_norm", q_size);
  b.k_norm = norm("self_attn.k_norm", kv_size);
  b.after_attention = norm("post_attention_layernorm", d.d_model);
  b.gate = linear("mlp.gate_proj", d.d_ff, d.d_model, false);
  b.up = linear("mlp.up_proj", d.d_ff, d.d_model, false);
  b.down = linear("mlp.down_proj", d.d_model, d.d_ff, false);
  b.after_mlp = norm("post_feedforward_layernorm", d.d_model);
  b.attention = {.heads = d.heads,
                 .kv_heads = d.kv_heads,
                 .head_dim = d.head_dim,
                 .scale = float(1 / std::sqrt(double(d.head_dim))),
                 .window = spec.windows[size_t(i)]};
  return b;
}

Tensor Olmo::forward(nn::Pass& p) const {
  nn::Residual r = p.embed(embedding_);  // [rows, d_model]
  for (int i = 0; i < dims_.layers; ++i) p.layer(*this, i, r);
  return p.head(r, final_norm_, head_);  // [logit_rows, vocab]
}

void Olmo::block(nn::Pass& p, int i, nn::Residual& r) const {
  const Block& b = blocks_[size_t(i)];
  p.flush_residual(r);
  auto [q, k, v] = p.linear(r.x, b.q, b.k, b.v);  // [rows, heads·d] [rows, kv·d] [rows, kv·d]
  q = p.normalise(q, b.q_norm);
  k = p.normalise(k, b.k_norm);
  p.norm_rope(q, k, b.attention.head_dim, {}, b.attention.window > 0 ? window_rope_ : full_rope_);
  r += p.normalise(p.linear(p.attend(q, k, v, b.attention), b.o), b.after_attention);

  p.flush_residual(r);
  auto [gate, up] = p.linear(r.x, b.gate, b.up);  // [rows, d_ff] each
  r += p.normalise(p.linear(p.glu(Activation::silu, std::move(gate), std::move(up)), b.down), b.after_mlp);
}

}  // namespace bumblebee::models
