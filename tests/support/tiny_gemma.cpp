// Config and weights of tiny Gemmas.
#include <nlohmann/json.hpp>

#include <cmath>

#include "tests/support/tiny_model.h"

namespace bumblebee::testing_support {
namespace {

constexpr int kAside = 32;  // width of a layer's own embedding

}  // namespace

Json TinyModel::gemma_config() const {
  Json c = {{"model_type", is_gemma4() ? "gemma4" : family},
            {"hidden_size", d_model},
            {"num_hidden_layers", layers},
            {"num_attention_heads", heads},
            {"head_dim", head_dim},
            {"num_key_value_heads", kv_heads},
            {"intermediate_size", d_ff},
            {"vocab_size", vocab},
            {"max_position_embeddings", 512},
            {"rms_norm_eps", 1e-6},
            {"tie_word_embeddings", tied},
            {"sliding_window", window > 0 ? window : 7},
            {"final_logit_softcapping", family == "gemma3" ? Json(nullptr) : Json(9.0)}};
  if (family == "gemma2") c["attn_logit_softcapping"] = 6.0;
  if (!is_gemma4()) c["query_pre_attn_scalar"] = head_dim;
  if (family == "gemma3") c["sliding_window_pattern"] = 2;
  if (!is_gemma4()) return c;
  const bool moe = has_experts();
  for (int i = 0; i < layers; ++i) c["layer_types"].push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  c.update({{"global_head_dim", 2 * head_dim},
            {"num_kv_shared_layers", layers - shared_from()},
            {"use_double_wide_mlp", true},
            {"hidden_size_per_layer_input", moe ? 0 : kAside},
            {"vocab_size_per_layer_input", vocab},
            {"attention_k_eq_v", moe},
            {"num_global_key_value_heads", 1},
            {"enable_moe_block", moe}});
  if (moe) c.update({{"num_experts", experts}, {"top_k_experts", of_row}, {"moe_intermediate_size", d_expert}});
  return c;
}

MemoryWeights TinyModel::gemma_weights() const {
  Random random(seed);
  MemoryWeights weights;
  const bool moe = has_experts();
  const auto matrix = [&](const std::string& path, int out, int in, double gain) {
    weights.add_matrix(path, random_weight(random, out, in, format, gain / std::sqrt(double(in))));
  };
  const auto vector = [&](const std::string& name, int size, double mean) {
    std::vector<float> values = random.normals(size_t(size), 0.3);
    for (float& v : values) v += float(mean);
    weights.add_vector(name, dense_weight(values, 1, size, DType::f32));
  };
  const auto norm = [&](const std::string& path, int size) {  // Gemma 4's are stored whole, the others' less 1
    vector(path + ".weight", size, is_gemma4() ? 1 : 0);
  };
  weights.add_matrix("model.embed_tokens", random_weight(random, vocab, d_model, format, 1));
  norm("model.norm", d_model);
  if (is_gemma4() && !moe) {
    weights.add_matrix("model.embed_tokens_per_layer", random_weight(random, vocab, layers * kAside, format, 0.3));
    matrix("model.per_layer_model_projection", layers * kAside, d_model, 1);
    norm("model.per_layer_projection_norm", kAside);
  }
  for (int i = 0; i < layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    const bool full = is_gemma4() && (i % 2 == 1 || i == layers - 1), own = i < shared_from();
    const int dim = full ? 2 * head_dim : head_dim, kv = (full && moe ? 1 : kv_heads) * dim;
    // Gemma 4 norms queries and keys, and has no further factor: they are small, so that scores are.
    matrix(at + "self_attn.q_proj", heads * dim, d_model, 2);
    if (own) matrix(at + "self_attn.k_proj", kv, d_model, 2);
    if (own && !(full && moe)) matrix(at + "self_attn.v_proj", kv, d_model, 1);
    matrix(at + "self_attn.o_proj", d_model, heads * dim, 1);
    if (family != "gemma2") {
      vector(at + "self_attn.q_norm.weight", dim, is_gemma4() ? 0.6 : 0.2);
      if (own) vector(at + "self_attn.k_norm.weight", dim, is_gemma4() ? 0.6 : 0.2);
    }
    for (const char* name : {"input", "post_attention", "pre_feedforward", "post_feedforward"})
      norm(at + name + "_layernorm", d_model);
    const int inner = d_ff * (own ? 1 : 2);
    matrix(at + "mlp.gate_proj", inner, d_model, 1);
    matrix(at + "mlp.up_proj", inner, d_model, 1);
    matrix(at + "mlp.down_proj", d_model, inner, 1);
    if (is_gemma4()) vector(at + "layer_scalar", 1, 0.8);
    if (is_gemma4() && !moe) {
      matrix(at + "per_layer_input_gate", kAside, d_model, 1);
      matrix(at + "per_layer_projection", d_model, kAside, 1);
      norm(at + "post_per_layer_input_norm", d_model);
    }
    if (!moe) continue;
    for (const char* name :
         {"post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"})
      norm(at + name, d_model);
    matrix(at + "router.proj", experts, d_model, 10);  // far apart: rounding changes no choice
    vector(at + "router.scale", d_model, 1);
    vector(at + "router.per_expert_scale", experts, 1);
    const auto stack = [&](const char* name, int out, int in) {
      weights.add_stack(at + "experts.switch_glu." + name,
                        random_weight(random, experts * out, in, format, 1.5 / std::sqrt(double(in))), experts);
    };
    stack("gate_proj", d_expert, d_model);
    stack("up_proj", d_expert, d_model);
    stack("down_proj", d_model, d_expert);
  }
  if (!tied) matrix("lm_head", vocab, d_model, 1);
  return weights;
}

}  // namespace bumblebee::testing_support
