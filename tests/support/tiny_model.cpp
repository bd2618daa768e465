// Config and weights of tiny decoders.
#include "tests/support/tiny_model.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace bumblebee::testing_support {

Json TinyModel::config() const {
  Json c = {{"model_type", family},         {"hidden_size", d_model},      {"num_hidden_layers", layers},
            {"num_attention_heads", heads}, {"head_dim", head_dim},        {"num_key_value_heads", kv_heads},
            {"intermediate_size", d_ff},    {"vocab_size", vocab},         {"max_position_embeddings", 512},
            {"rms_norm_eps", 1e-6},         {"tie_word_embeddings", tied}, {"rope_theta", 10000.0}};
  if (family == "mistral") c["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
  if (family.starts_with("qwen") && window > 0) {
    c["use_sliding_window"] = true;
    c["sliding_window"] = window;
    c["max_window_layers"] = 0;
  }
  return c;
}

MemoryWeights TinyModel::weights() const {
  Random random(seed);
  MemoryWeights weights;
  const auto matrix = [&](const std::string& path, int out, int in, double gain) {
    weights.add_matrix(path, random_weight(random, out, in, format, gain / std::sqrt(double(in))));
  };
  const auto vector = [&](const std::string& name, int size, double mean, double deviation) {
    std::vector<float> values = random.normals(size_t(size), deviation);
    for (float& v : values) v += float(mean);
    weights.add_vector(name, dense_weight(values, 1, size, DType::f32));
  };
  weights.add_matrix("model.embed_tokens", random_weight(random, vocab, d_model, format, 1));
  for (int i = 0; i < layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    vector(at + "input_layernorm.weight", d_model, 1, 0.3);
    matrix(at + "self_attn.q_proj", heads * head_dim, d_model, 2);
    matrix(at + "self_attn.k_proj", kv_heads * head_dim, d_model, 2);
    matrix(at + "self_attn.v_proj", kv_heads * head_dim, d_model, 1);
    matrix(at + "self_attn.o_proj", d_model, heads * head_dim, 1);
    if (family == "qwen2") {
      vector(at + "self_attn.q_proj.bias", heads * head_dim, 0, 0.5);
      vector(at + "self_attn.k_proj.bias", kv_heads * head_dim, 0, 0.5);
      vector(at + "self_attn.v_proj.bias", kv_heads * head_dim, 0, 0.5);
    }
    if (family == "qwen3") {
      vector(at + "self_attn.q_norm.weight", head_dim, 1.5, 0.3);
      vector(at + "self_attn.k_norm.weight", head_dim, 1.5, 0.3);
    }
    vector(at + "post_attention_layernorm.weight", d_model, 1, 0.3);
    matrix(at + "mlp.gate_proj", d_ff, d_model, 1);
    matrix(at + "mlp.up_proj", d_ff, d_model, 1);
    matrix(at + "mlp.down_proj", d_model, d_ff, 1);
  }
  vector("model.norm.weight", d_model, 1, 0.3);
  if (!tied) matrix("lm_head", vocab, d_model, 1);
  return weights;
}

}  // namespace bumblebee::testing_support
