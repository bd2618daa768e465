// Config and weights of tiny decoders.
#include "tests/support/tiny_model.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace bumblebee::testing_support {

double TinyModel::sharpness() const {
  // Of exact sums the rounding that comes out of its second layer is 3 to 5 times what comes out of Llama's, and as
  // much as Llama's out of its first: scores of a wide rotation, with biases.
  if (family == "gpt_oss") return 4;
  if (family != "ministral3") return 1;
  const double yarn = 0.1 * std::log(64.0) + 1;
  return yarn * yarn * (1 + 0.5 * std::log1p(52 / 8));
}

Json TinyModel::config() const {
  if (is_gemma()) return gemma_config();
  Json c = {{"model_type", family},         {"hidden_size", d_model},      {"num_hidden_layers", layers},
            {"num_attention_heads", heads}, {"head_dim", head_dim},        {"num_key_value_heads", kv_heads},
            {"intermediate_size", d_ff},    {"vocab_size", vocab},         {"max_position_embeddings", 512},
            {"rms_norm_eps", 1e-6},         {"tie_word_embeddings", tied}, {"rope_theta", 10000.0}};
  if (family == "granite") {
    c["embedding_multiplier"] = 3.0;
    c["residual_multiplier"] = 0.5;
    c["attention_multiplier"] = 0.3;
    c["logits_scaling"] = 4.0;
  }
  if (family == "smollm3") c["no_rope_layer_interval"] = 2;
  if (family == "mistral") c["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
  if (family == "mixtral") {
    c["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
    c["intermediate_size"] = d_expert;
    c["num_local_experts"] = experts;
    c["num_experts_per_tok"] = of_row;
  }
  if (family == "gpt_oss") {
    c["sliding_window"] = window > 0 ? window : 128;  // of every second layer
    c["intermediate_size"] = d_expert;
    c["num_local_experts"] = experts;
    c["num_experts_per_tok"] = of_row;
    c["rope_scaling"] = {
        {"rope_type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 64}, {"truncate", false}};
  }
  if (family == "olmo3") {  // every second layer sees everything, and rotates as a longer context wants it
    c["sliding_window"] = window > 0 ? window : 7;
    for (int i = 0; i < layers; ++i) c["layer_types"].push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
    c["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 8.0}, {"original_max_position_embeddings", 64}};
  }
  if (family == "ministral3") {
    c.erase("rope_theta");
    c["rope_parameters"] = {{"rope_type", "yarn"},
                            {"rope_theta", 1e4},
                            {"factor", 64.0},
                            {"original_max_position_embeddings", 8},
                            {"llama_4_scaling_beta", 0.5}};
  }
  if (is_lfm2()) {
    c["norm_eps"] = 1e-6;
    c["tie_embedding"] = tied;
    c["block_auto_adjust_ff_dim"] = false;
    for (int i = 0; i < layers; ++i) c["layer_types"].push_back((i + 1) % interval != 0 ? "conv" : "full_attention");
  }
  if (has_latents()) {
    c["kv_lora_rank"] = kRank;
    c["q_lora_rank"] = family == "deepseek_v3" ? Json(kRank) : Json(nullptr);
    c["qk_nope_head_dim"] = kNope;
    c["qk_rope_head_dim"] = head_dim;
    c["v_head_dim"] = kValue;
    c["moe_intermediate_size"] = d_expert;
    c["n_routed_experts"] = experts;
    c["num_experts_per_tok"] = of_row;
    c["n_shared_experts"] = 1;
    c["first_k_dense_replace"] = 1;
    c["n_group"] = 2;
    c["topk_group"] = 1;
    c["routed_scaling_factor"] = 1.5;
    if (family == "deepseek_v2") c["topk_method"] = "group_limited_greedy";
  }
  if (is_hybrid()) {
    c["linear_num_key_heads"] = key_heads;
    c["linear_num_value_heads"] = value_heads;
    c["linear_key_head_dim"] = key_dim;
    c["linear_value_head_dim"] = value_dim;
    c["full_attention_interval"] = interval;
    c["partial_rotary_factor"] = 0.5;
  }
  if (has_experts() && family != "mixtral" && family != "gpt_oss" && !has_latents()) {
    c["moe_intermediate_size"] = d_expert;
    c["num_experts"] = experts;
    c["num_experts_per_tok"] = of_row;
    c["norm_topk_prob"] = normalised;
    if (has_shared()) c["shared_expert_intermediate_size"] = d_ff;
    if (window > 0) c["layer_types"] = std::vector<std::string>(size_t(layers), "sliding_attention");
    if (family == "qwen3_moe") c.erase("layer_types");
  }
  if (family.starts_with("qwen") && window > 0) {
    c["use_sliding_window"] = true;
    c["sliding_window"] = window;
    c["max_window_layers"] = 0;
  }
  return c;
}

/// The router's scores are far apart, so that rounding changes no choice. Where experts are apart they are those of the
/// stack, row for row.
void TinyModel::add_experts(MemoryWeights& weights, Random& random, const std::string& at) const {
  const bool gpt_oss = family == "gpt_oss";
  weights.add_matrix(at + (gpt_oss ? "router" : "gate"),
                     random_weight(random, experts, d_model, format, 3 / std::sqrt(double(d_model))));
  const auto biased = [&](const std::string& path, int size) {
    weights.add_vector(path + ".bias", dense_weight(random.normals(size_t(size), 0.3), 1, size, DType::f32));
  };
  if (gpt_oss) biased(at + "router", experts);
  if (family == "deepseek_v3")
    weights.add_vector(at + "gate.e_score_correction_bias",
                       dense_weight(random.normals(size_t(experts), 0.1), 1, experts, DType::f32));
  if (has_shared())
    weights.add_matrix(at + "shared_expert_gate",
                       random_weight(random, 1, d_model, format, 1 / std::sqrt(double(d_model))));
  const bool mixtral = family == "mixtral";
  const auto stack = [&](const char* name, const char* mixtrals, int out, int in) {
    // Clamped gates are multiplied by up + 1: with the gain of the others a difference grows tenfold more than theirs.
    HostWeight all = random_weight(random, experts * out, in, format, (gpt_oss ? 0.5 : 1.5) / std::sqrt(double(in)));
    if (gpt_oss) {
      biased(at + "experts." + name, experts * out);
      return weights.add_stack(at + "experts." + name, std::move(all), experts);
    }
    if (!apart) return weights.add_stack(at + "switch_mlp." + name, std::move(all), experts);
    all.out = out;
    all.experts = experts;
    for (int e = 0; e < experts; ++e)
      weights.add_matrix(at + "experts." + std::to_string(e) + "." + (mixtral ? mixtrals : name), expert_of(all, e));
  };
  stack("gate_proj", "w1", d_expert, d_model);
  stack("up_proj", "w3", d_expert, d_model);
  stack("down_proj", "w2", d_model, d_expert);
}

void TinyModel::add_latents(MemoryWeights& weights, Random& random, const std::string& at) const {
  const auto matrix = [&](const std::string& name, int out, int in, double gain) {
    weights.add_matrix(at + name, random_weight(random, out, in, format, gain / std::sqrt(double(in))));
  };
  const auto norm = [&](const std::string& name, int size) {
    std::vector<float> values = random.normals(size_t(size), 0.3);
    for (float& v : values) v += 1;
    weights.add_vector(at + name + ".weight", dense_weight(values, 1, size, DType::f32));
  };
  const int q_size = heads * (kNope + head_dim);
  if (family == "deepseek_v3") {
    matrix("q_a_proj", kRank, d_model, 1);
    norm("q_a_layernorm", kRank);
    matrix("q_b_proj", q_size, kRank, 1.5);
    const auto stack = [&](const std::string& name, int out, int in) {
      weights.add_stack(at + name, random_weight(random, heads * out, in, format, 1.5 / std::sqrt(double(in))), heads);
    };
    stack("embed_q", kRank, kNope);
    stack("unembed_out", kValue, kRank);
  } else {
    matrix("q_proj", q_size, d_model, 1.5);
    matrix("kv_b_proj", heads * (kNope + kValue), kRank, 1.5);
  }
  matrix("kv_a_proj_with_mqa", kRank + head_dim, d_model, 1);
  norm("kv_a_layernorm", kRank);
  matrix("o_proj", d_model, heads * kValue, 1);
}

/// Decays from nearly nothing to nearly all, so that states matter at every distance.
void TinyModel::add_delta_net(MemoryWeights& weights, Random& random, const std::string& at) const {
  const int keys = key_heads * key_dim, values = value_heads * value_dim, conv = 2 * keys + values;
  const auto matrix = [&](const char* name, int out, int in) {
    weights.add_matrix(at + name, random_weight(random, out, in, format, 1 / std::sqrt(double(in))));
  };
  const auto vector = [&](const char* name, int size, double mean, double deviation) {
    std::vector<float> v = random.normals(size_t(size), deviation);
    for (float& x : v) x += float(mean);
    weights.add_vector(at + name, dense_weight(v, 1, size, DType::f32));
  };
  if (family == "qwen3_next") {
    matrix("in_proj_qkvz", conv + values, d_model);
    matrix("in_proj_ba", 2 * value_heads, d_model);
  } else {
    matrix("in_proj_qkv", conv, d_model);
    matrix("in_proj_z", values, d_model);
    matrix("in_proj_b", value_heads, d_model);
    matrix("in_proj_a", value_heads, d_model);
  }
  weights.add_depthwise(at + "conv1d.weight", random_dense(random, conv, 4, DType::f32, 0.5), by_torch);
  vector("A_log", value_heads, -1, 1.5);
  vector("dt_bias", value_heads, 0, 1);
  vector("norm.weight", value_dim, 1, 0.3);
  matrix("out_proj", d_model, values);
}

MemoryWeights TinyModel::lfm2_weights() const {
  Random random(seed);
  MemoryWeights weights;
  const auto matrix = [&](const std::string& path, int out, int in, double gain) {
    weights.add_matrix(path, random_weight(random, out, in, format, gain / std::sqrt(double(in))));
  };
  const auto norm = [&](const std::string& path, int size) {
    std::vector<float> values = random.normals(size_t(size), 0.3);
    for (float& v : values) v += 1;
    weights.add_vector(path + ".weight", dense_weight(values, 1, size, DType::f32));
  };
  weights.add_matrix("model.embed_tokens", random_weight(random, vocab, d_model, format, 1));
  for (int i = 0; i < layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    norm(at + "operator_norm", d_model);
    if ((i + 1) % interval != 0) {
      matrix(at + "conv.in_proj", 3 * d_model, d_model, 1.5);
      weights.add_depthwise(at + "conv.conv.weight", random_dense(random, d_model, 3, DType::f32, 0.6), by_torch);
      matrix(at + "conv.out_proj", d_model, d_model, 1);
    } else {
      matrix(at + "self_attn.q_proj", heads * head_dim, d_model, 2);
      matrix(at + "self_attn.k_proj", kv_heads * head_dim, d_model, 2);
      matrix(at + "self_attn.v_proj", kv_heads * head_dim, d_model, 1);
      matrix(at + "self_attn.out_proj", d_model, heads * head_dim, 1);
      norm(at + "self_attn.q_layernorm", head_dim);
      norm(at + "self_attn.k_layernorm", head_dim);
    }
    norm(at + "ffn_norm", d_model);
    matrix(at + "feed_forward.w1", d_ff, d_model, 1);
    matrix(at + "feed_forward.w3", d_ff, d_model, 1);
    matrix(at + "feed_forward.w2", d_model, d_ff, 1);
  }
  norm("model.embedding_norm", d_model);
  if (!tied) matrix("lm_head", vocab, d_model, 1);
  return weights;
}

MemoryWeights TinyModel::weights() const {
  if (is_gemma()) return gemma_weights();
  if (is_lfm2()) return lfm2_weights();
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
  const double one = is_hybrid() && by_torch ? 0 : 1;  // of norms that are added to one
  weights.add_matrix("model.embed_tokens", random_weight(random, vocab, d_model, format, 1));
  for (int i = 0; i < layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    if (!is_olmo()) vector(at + "input_layernorm.weight", d_model, one, 0.3);
    const bool recurrent = is_hybrid() && (i + 1) % interval != 0;
    if (has_latents()) {
      add_latents(weights, random, at + "self_attn.");
    } else if (recurrent) {
      add_delta_net(weights, random, at + "linear_attn.");
    } else if (family == "phi3") {
      matrix(at + "self_attn.qkv_proj", (heads + 2 * kv_heads) * head_dim, d_model, 1.5);
      matrix(at + "self_attn.o_proj", d_model, heads * head_dim, 1);
    } else {
      matrix(at + "self_attn.q_proj", (is_hybrid() ? 2 : 1) * heads * head_dim, d_model, 2);
      matrix(at + "self_attn.k_proj", kv_heads * head_dim, d_model, 2);
      matrix(at + "self_attn.v_proj", kv_heads * head_dim, d_model, 1);
      matrix(at + "self_attn.o_proj", d_model, heads * head_dim, 1);
    }
    if (family.starts_with("qwen2")) {
      vector(at + "self_attn.q_proj.bias", heads * head_dim, 0, 0.5);
      vector(at + "self_attn.k_proj.bias", kv_heads * head_dim, 0, 0.5);
      vector(at + "self_attn.v_proj.bias", kv_heads * head_dim, 0, 0.5);
    }
    if (family == "gpt_oss") {
      for (const auto& [name, size] :
           {std::pair("q", heads * head_dim), {"k", kv_heads * head_dim}, {"v", kv_heads * head_dim}, {"o", d_model}})
        vector(at + "self_attn." + name + "_proj.bias", size, 0, 0.5);
      vector(at + "self_attn.sinks", heads, 1, 1.5);
    }
    if (family.starts_with("qwen3") && !recurrent) {
      vector(at + "self_attn.q_norm.weight", head_dim, one + 0.5, 0.3);
      vector(at + "self_attn.k_norm.weight", head_dim, one + 0.5, 0.3);
    }
    if (family == "glm4") {
      vector(at + "self_attn.q_proj.bias", heads * head_dim, 0, 0.5);
      vector(at + "self_attn.k_proj.bias", kv_heads * head_dim, 0, 0.5);
      vector(at + "self_attn.v_proj.bias", kv_heads * head_dim, 0, 0.5);
      vector(at + "post_self_attn_layernorm.weight", d_model, 1, 0.3);
      vector(at + "post_mlp_layernorm.weight", d_model, 1, 0.3);
    }
    if (is_olmo()) {
      vector(at + "self_attn.q_norm.weight", heads * head_dim, 1.5, 0.3);
      vector(at + "self_attn.k_norm.weight", kv_heads * head_dim, 1.5, 0.3);
      vector(at + "post_feedforward_layernorm.weight", d_model, 1, 0.3);
    }
    vector(at + "post_attention_layernorm.weight", d_model, one, 0.3);
    const bool sparse = has_experts() && !(has_latents() && i == 0);
    if (sparse) {
      add_experts(weights, random, at + (family == "mixtral" ? "block_sparse_moe." : "mlp."));
    }
    if (!sparse || has_shared() || has_latents()) {
      const std::string mlp = at + (!sparse ? "mlp." : has_latents() ? "mlp.shared_experts." : "mlp.shared_expert.");
      const int inner = sparse && has_latents() ? d_expert : d_ff;
      if (family == "glm4" || family == "phi3") {
        matrix(mlp + "gate_up_proj", 2 * inner, d_model, 1);
      } else {
        matrix(mlp + "gate_proj", inner, d_model, 1);
        matrix(mlp + "up_proj", inner, d_model, 1);
      }
      matrix(mlp + "down_proj", d_model, inner, 1);
    }
  }
  vector("model.norm.weight", d_model, one, 0.3);
  if (!tied) matrix("lm_head", vocab, d_model, 1);
  return weights;
}

}  // namespace bumblebee::testing_support
