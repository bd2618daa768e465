// Configs: what is read, and a table of what is refused. A setting that changes the result and is not implemented must
// never be ignored.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "models/registry.h"

namespace bumblebee::models {
namespace {

Json config_of(const std::string& family) {
  return parse_json(cat(R"({"model_type": ")", family,
                        R"(", "architectures": ["XForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "hidden_act": "silu",
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5})"),
                    "config.json");
}

struct Refusal {
  const char* name;
  const char* patch;  // merged into a llama config; null deletes nothing, it is null
  ErrorCode code;
  const char* mention;
};

class ConfigRefusal : public testing::TestWithParam<Refusal> {};

constexpr Refusal kRefusals[] = {
    {"model_type_unknown", R"({"model_type": "gpt2"})", ErrorCode::unsupported,
     "expected one of deepseek_v2, deepseek_v3, gemma2, gemma3, gemma4, glm4, glm4_moe_lite, gpt_oss, granite, "
     "granitemoehybrid, lfm2, lfm2_moe, llama, "
     "ministral3, mistral, mixtral, olmo2, olmo3, phi3, qwen2, qwen2_moe, qwen3, qwen3_5, qwen3_5_moe, qwen3_moe, "
     "qwen3_next, seed_oss, smollm3, got 'gpt2'"},
    {"model_type_null", R"({"model_type": null})", ErrorCode::unsupported, "'model_type'"},
    {"model_type_number", R"({"model_type": 5})", ErrorCode::bad_config, "'model_type'"},
    {"model_type_list", R"({"model_type": ["llama"]})", ErrorCode::bad_config, "'model_type'"},
    {"model_type_other_moe", R"({"model_type": "olmoe"})", ErrorCode::unsupported, "olmoe"},
    {"architecture_encoder", R"({"architectures": ["LlamaForSequenceClassification"]})", ErrorCode::unsupported,
     "LlamaForSequenceClassification"},
    {"architectures_text", R"({"architectures": "LlamaForCausalLM"})", ErrorCode::bad_config, "'architectures'"},
    {"hidden_act_gelu", R"({"hidden_act": "gelu"})", ErrorCode::unsupported, "expected silu, got 'gelu'"},
    {"hidden_activation", R"({"hidden_activation": "gelu_pytorch_tanh"})", ErrorCode::unsupported, "gelu_pytorch_tanh"},
    {"softcap_final", R"({"final_logit_softcapping": 30.0})", ErrorCode::unsupported, "final_logit_softcapping"},
    {"softcap_attention", R"({"attn_logit_softcapping": 50.0})", ErrorCode::unsupported, "attn_logit_softcapping"},
    {"query_scalar", R"({"query_pre_attn_scalar": 256})", ErrorCode::unsupported, "query_pre_attn_scalar"},
    {"logits_scaling", R"({"logits_scaling": 8.0})", ErrorCode::unsupported, "logits_scaling"},
    {"logit_scale", R"({"logit_scale": 0.0625})", ErrorCode::unsupported, "logit_scale"},
    {"embedding_multiplier", R"({"embedding_multiplier": 12.0})", ErrorCode::unsupported, "embedding_multiplier"},
    {"residual_multiplier", R"({"residual_multiplier": 0.22})", ErrorCode::unsupported, "residual_multiplier"},
    {"attention_multiplier", R"({"attention_multiplier": 0.0078})", ErrorCode::unsupported, "attention_multiplier"},
    {"no_rope_layers", R"({"no_rope_layers": [1, 1, 0]})", ErrorCode::unsupported, "no_rope_layers"},
    {"experts", R"({"num_experts": 8})", ErrorCode::unsupported, "num_experts"},
    {"local_experts", R"({"num_local_experts": 8})", ErrorCode::unsupported, "num_local_experts"},
    {"clip_qkv", R"({"clip_qkv": 8.0})", ErrorCode::unsupported, "clip_qkv"},
    {"qk_norm_of_llama", R"({"use_qk_norm": true})", ErrorCode::unsupported, "use_qk_norm"},
    {"traditional_rope", R"({"rope_traditional": true})", ErrorCode::unsupported, "rope_traditional"},
    {"looks_ahead", R"({"is_causal": false})", ErrorCode::unsupported, "is_causal"},
    {"looks_ahead_too", R"({"use_bidirectional_attention": true})", ErrorCode::unsupported,
     "use_bidirectional_attention"},
    {"chunks", R"({"attention_chunk_size": 8192})", ErrorCode::unsupported, "attention_chunk_size"},
    {"parallel", R"({"use_parallel_residual": true})", ErrorCode::unsupported, "use_parallel_residual"},
    {"alibi", R"({"alibi": true})", ErrorCode::unsupported, "alibi"},
    {"rotary_pct", R"({"rotary_pct": 0.25})", ErrorCode::unsupported, "rotary_pct"},
    {"scaled_embedding", R"({"scale_emb": 12})", ErrorCode::unsupported, "scale_emb"},
    {"interleaved_rope", R"({"rope_interleaved": true})", ErrorCode::unsupported, "rope_interleaved"},
    {"partial_rotary", R"({"partial_rotary_factor": 0.5})", ErrorCode::unsupported, "partial_rotary_factor"},
    {"rope_longrope", R"({"rope_scaling": {"rope_type": "longrope"}})", ErrorCode::bad_config, "'short_factor'"},
    {"rope_v5_unknown", R"({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}})", ErrorCode::unsupported,
     "'spiral'"},
    {"layer_types_sliding", R"({"layer_types": ["full_attention", "sliding_attention", "full_attention"]})",
     ErrorCode::unsupported, "sliding_attention"},
    {"layer_types_linear", R"({"layer_types": ["linear_attention", "full_attention", "full_attention"]})",
     ErrorCode::unsupported, "linear_attention"},
    {"layers_missing", R"({"num_hidden_layers": null})", ErrorCode::bad_config, "missing key 'num_hidden_layers'"},
    {"layers_zero", R"({"num_hidden_layers": 0})", ErrorCode::bad_config, "'num_hidden_layers'"},
    {"layers_absurd", R"({"num_hidden_layers": 1000000})", ErrorCode::bad_config, "'num_hidden_layers'"},
    {"layers_fraction", R"({"num_hidden_layers": 2.5})", ErrorCode::bad_config, "2.5"},
    {"hidden_negative", R"({"hidden_size": -64})", ErrorCode::bad_config, "-64"},
    {"hidden_absurd", R"({"hidden_size": 4294967296})", ErrorCode::bad_config, "4294967296"},
    {"hidden_text", R"({"hidden_size": "64"})", ErrorCode::bad_config, "'hidden_size'"},
    {"vocab_absurd", R"({"vocab_size": 99999999999})", ErrorCode::bad_config, "'vocab_size'"},
    {"ff_absurd", R"({"intermediate_size": 1e300})", ErrorCode::bad_config, "'intermediate_size'"},
    {"heads_zero", R"({"num_attention_heads": 0})", ErrorCode::bad_config, "'num_attention_heads'"},
    {"kv_heads_more", R"({"num_key_value_heads": 8})", ErrorCode::bad_config, "'num_key_value_heads'"},
    {"kv_heads_no_divisor", R"({"num_key_value_heads": 3})", ErrorCode::bad_config,
     "expected a divisor of 4 heads, got 3"},
    {"heads_no_divisor", R"({"num_attention_heads": 6})", ErrorCode::bad_config,
     "'hidden_size': expected a multiple of 6"},
    {"head_dim_odd", R"({"head_dim": 15})", ErrorCode::bad_config, "expected an even number, got 15"},
    {"head_dim_absurd", R"({"head_dim": 1000000})", ErrorCode::bad_config, "'head_dim'"},
    {"heads_times_dim_absurd", R"({"num_attention_heads": 65536, "num_key_value_heads": 1, "head_dim": 4096})",
     ErrorCode::bad_config, "head_dim"},
    {"eps_negative", R"({"rms_norm_eps": -1e-5})", ErrorCode::bad_config, "'rms_norm_eps'"},
    {"eps_text", R"({"rms_norm_eps": "1e-5"})", ErrorCode::bad_config, "'rms_norm_eps'"},
    {"tie_number", R"({"tie_word_embeddings": 1})", ErrorCode::bad_config, "'tie_word_embeddings'"},
    {"bias_text", R"({"attention_bias": "yes"})", ErrorCode::bad_config, "'attention_bias'"},
    {"context_zero", R"({"max_position_embeddings": 0})", ErrorCode::bad_config, "'max_position_embeddings'"},
    {"theta_zero", R"({"rope_theta": 0})", ErrorCode::bad_config, "'rope_theta'"},
    {"scaling_text", R"({"rope_scaling": "linear"})", ErrorCode::bad_config, "'rope_scaling'"},
};

INSTANTIATE_TEST_SUITE_P(Table, ConfigRefusal, testing::ValuesIn(kRefusals),
                         [](const auto& refusal) { return std::string(refusal.param.name); });

/// `family`'s config with `patch` is refused by an error that mentions `mention`.
void expect_refusal(const char* family, const char* patch, ErrorCode code, const char* mention) {
  Json config = config_of(family);
  config.update(parse_json(patch, "patch"));
  try {
    read_spec(config, "config.json");
    ADD_FAILURE() << "accepted " << patch;
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code()), to_string(code)) << e.what();
    EXPECT_EQ(std::string(e.what()).find("[config.json] "), 0u) << e.what();
    EXPECT_NE(std::string(e.what()).find(mention), std::string::npos) << e.what();
  }
}

TEST_P(ConfigRefusal, NamesTheSetting) {
  const auto& refusal = GetParam();
  expect_refusal("llama", refusal.patch, refusal.code, refusal.mention);
}

struct ExpertRefusal {
  const char *name, *family, *patch;
  ErrorCode code;
  const char* mention;
};

class ExpertConfigRefusal : public testing::TestWithParam<ExpertRefusal> {};

constexpr ExpertRefusal kExpertRefusals[] = {
    {"none", "qwen3_moe", R"({"num_experts": 0})", ErrorCode::bad_config, "'num_experts'"},
    {"negative", "qwen3_moe", R"({"num_experts": -8})", ErrorCode::bad_config, "-8"},
    {"absurd", "qwen3_moe", R"({"num_experts": 1000000})", ErrorCode::bad_config, "1000000"},
    {"fraction", "qwen2_moe", R"({"num_experts": 7.5})", ErrorCode::bad_config, "7.5"},
    {"text", "mixtral", R"({"num_local_experts": "8"})", ErrorCode::bad_config, "'num_local_experts'"},
    {"two_numbers", "qwen3_moe", R"({"num_experts": 8, "num_local_experts": 16})", ErrorCode::bad_config,
     "'num_experts' and 'num_local_experts' disagree: got 8 and 16"},
    {"two_numbers_of_mixtral", "mixtral", R"({"num_local_experts": 8, "num_experts": 4})", ErrorCode::bad_config,
     "'num_local_experts' and 'num_experts' disagree"},
    {"more_than_there_are", "qwen3_moe", R"({"num_experts": 4, "num_experts_per_tok": 5})", ErrorCode::bad_config,
     "'num_experts_per_tok': expected at most 4 experts, got 5"},
    {"more_than_there_are_by_default", "mixtral", R"({"num_local_experts": 1})", ErrorCode::bad_config,
     "expected at most 1 experts, got 2"},
    {"none_of_them", "qwen2_moe", R"({"num_experts_per_tok": 0})", ErrorCode::bad_config, "'num_experts_per_tok'"},
    {"width_zero", "qwen3_moe", R"({"moe_intermediate_size": 0})", ErrorCode::bad_config, "'moe_intermediate_size'"},
    {"width_absurd", "qwen2_moe", R"({"moe_intermediate_size": 99999999999})", ErrorCode::bad_config,
     "'moe_intermediate_size'"},
    {"shared_width_zero", "qwen2_moe", R"({"shared_expert_intermediate_size": 0})", ErrorCode::bad_config,
     "'shared_expert_intermediate_size'"},
    {"shared_width_text", "qwen2_moe", R"({"shared_expert_intermediate_size": "big"})", ErrorCode::bad_config,
     "'shared_expert_intermediate_size'"},
    {"step_zero", "qwen3_moe", R"({"decoder_sparse_step": 0})", ErrorCode::bad_config, "'decoder_sparse_step'"},
    {"plain_layers_number", "qwen3_moe", R"({"mlp_only_layers": 1})", ErrorCode::bad_config,
     "'mlp_only_layers': expected a list"},
    {"plain_layers_beyond", "qwen3_moe", R"({"mlp_only_layers": [0, 3]})", ErrorCode::bad_config,
     "'mlp_only_layers': expected numbers below 3, got 3"},
    {"plain_layers_text", "qwen2_moe", R"({"mlp_only_layers": ["0"]})", ErrorCode::bad_config, "'mlp_only_layers'"},
    {"normalised_text", "qwen3_moe", R"({"norm_topk_prob": "yes"})", ErrorCode::bad_config, "'norm_topk_prob'"},
    {"qkv_bias_number", "qwen2_moe", R"({"qkv_bias": 1})", ErrorCode::bad_config, "'qkv_bias'"},
    {"activation", "qwen3_moe", R"({"hidden_act": "gelu"})", ErrorCode::unsupported, "'gelu'"},
    {"windows_of_unknown_layers", "qwen2_moe", R"({"use_sliding_window": true, "sliding_window": 8})",
     ErrorCode::unsupported, "'use_sliding_window': expected 'layer_types' beside it"},
    {"layers_of_other_kinds", "qwen3_moe",
     R"({"layer_types": ["linear_attention", "linear_attention", "full_attention"]})", ErrorCode::unsupported,
     "linear_attention"},
    {"soft_cap", "mixtral", R"({"final_logit_softcapping": 30.0})", ErrorCode::unsupported, "final_logit_softcapping"},
    {"limit_of_another", "gpt_oss", R"({"swiglu_limit": 5.0})", ErrorCode::unsupported,
     "'swiglu_limit': expected 7, got 5"},
    {"slope_of_another", "gpt_oss", R"({"swiglu_alpha": 1.0})", ErrorCode::unsupported,
     "'swiglu_alpha': expected 1.702"},
    {"limit_text", "gpt_oss", R"({"swiglu_limit": "seven"})", ErrorCode::bad_config, "'swiglu_limit'"},
    {"no_window", "gpt_oss", R"({"sliding_window": 0})", ErrorCode::bad_config, "'sliding_window'"},
    {"kinds_of_layers", "gpt_oss", R"({"layer_types": ["full_attention"]})", ErrorCode::bad_config, "'layer_types'"},
    {"chunked_layers", "gpt_oss", R"({"layer_types": ["full_attention", "chunked_attention", "sliding_attention"]})",
     ErrorCode::unsupported, "chunked_attention"},
    {"experts_that_disagree", "gpt_oss", R"({"num_local_experts": 8, "num_experts": 4})", ErrorCode::bad_config,
     "disagree"},
    {"too_many_of_them", "gpt_oss", R"({"num_local_experts": 3})", ErrorCode::bad_config, "expected at most 3 experts"},
    {"bias_number", "gpt_oss", R"({"attention_bias": 1})", ErrorCode::bad_config, "'attention_bias'"},
    {"intermediate_missing", "mixtral", R"({"intermediate_size": null})", ErrorCode::bad_config,
     "missing key 'intermediate_size'"},
};

constexpr ExpertRefusal kHybridRefusals[] = {
    {"no_gate", "qwen3_5", R"({"attn_output_gate": false})", ErrorCode::unsupported, "'attn_output_gate'"},
    {"key_heads_zero", "qwen3_5", R"({"linear_num_key_heads": 0})", ErrorCode::bad_config, "'linear_num_key_heads'"},
    {"heads_no_multiple", "qwen3_next", R"({"linear_num_key_heads": 3, "linear_num_value_heads": 8})",
     ErrorCode::bad_config, "'linear_num_value_heads': expected a multiple of 3 key heads, got 8"},
    {"key_dim_absurd", "qwen3_5", R"({"linear_key_head_dim": 1000000})", ErrorCode::bad_config,
     "'linear_key_head_dim'"},
    {"value_dim_text", "qwen3_5", R"({"linear_value_head_dim": "128"})", ErrorCode::bad_config,
     "'linear_value_head_dim'"},
    {"kernel_one", "qwen3_5_moe", R"({"linear_conv_kernel_dim": 1})", ErrorCode::bad_config,
     "'linear_conv_kernel_dim'"},
    {"kernel_long", "qwen3_next", R"({"linear_conv_kernel_dim": 64})", ErrorCode::bad_config,
     "'linear_conv_kernel_dim'"},
    {"interval_zero", "qwen3_5", R"({"full_attention_interval": 0})", ErrorCode::bad_config,
     "'full_attention_interval'"},
    {"layer_types_short", "qwen3_5", R"({"layer_types": ["linear_attention"]})", ErrorCode::bad_config,
     "'layer_types': expected a list of 3 names"},
    {"layer_types_windows", "qwen3_next",
     R"({"layer_types": ["linear_attention", "sliding_attention", "full_attention"]})", ErrorCode::unsupported,
     "sliding_attention"},
    {"rotary_too_much", "qwen3_5", R"({"partial_rotary_factor": 1.5})", ErrorCode::bad_config,
     "'partial_rotary_factor'"},
    {"rotary_nothing", "qwen3_5", R"({"partial_rotary_factor": 0})", ErrorCode::bad_config, "'partial_rotary_factor'"},
    {"rotary_odd", "qwen3_5", R"({"head_dim": 20, "partial_rotary_factor": 0.25})", ErrorCode::bad_config,
     "expected an even number"},
    {"experts_of_dense", "qwen3_5", R"({"num_experts": 8})", ErrorCode::unsupported, "num_experts"},
    {"more_experts_than_there_are", "qwen3_5_moe", R"({"num_experts": 4})", ErrorCode::bad_config,
     "'num_experts_per_tok': expected at most 4 experts, got 8"},
    {"activation_of_hybrid", "qwen3_5", R"({"hidden_act": "gelu"})", ErrorCode::unsupported, "'gelu'"},
};
INSTANTIATE_TEST_SUITE_P(Hybrids, ExpertConfigRefusal, testing::ValuesIn(kHybridRefusals),
                         [](const auto& refusal) { return std::string(refusal.param.name); });

TEST(Config, Hybrids) {
  Json config = config_of("qwen3_5");
  const DecoderSpec spec = read_spec(config, "x").decoder;  // transformers' defaults
  EXPECT_EQ(spec.dims.head_dim, 256);
  EXPECT_EQ(spec.rope.dims, 64);
  EXPECT_EQ(spec.delta->key_heads, 16);
  EXPECT_EQ(spec.delta->value_heads, 32);
  EXPECT_EQ(spec.delta->conv_cols(), 8192);
  EXPECT_FALSE(spec.delta->fused);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(spec.dims.is_recurrent(i));
  config["layer_types"] = {"full_attention", "linear_attention", "full_attention"};
  config["full_attention_interval"] = 2;
  const nn::ModelDims dims = read_spec(config, "x").decoder.dims;  // mlx-lm would go by the interval
  EXPECT_FALSE(dims.is_recurrent(0));
  EXPECT_TRUE(dims.is_recurrent(1));
  EXPECT_EQ(dims.kv_places[2].index, 1);
  EXPECT_TRUE(read_spec(config_of("qwen3_next"), "x").decoder.moe.router.normalise);
  EXPECT_EQ(read_spec(config_of("qwen3_5_moe"), "x").decoder.moe.router.experts, 256);
  config["model_type"] = "qwen3_5_text";
  EXPECT_EQ(read_spec(config, "x").family, "qwen3_5");
}

INSTANTIATE_TEST_SUITE_P(Table, ExpertConfigRefusal, testing::ValuesIn(kExpertRefusals),
                         [](const auto& refusal) { return std::string(refusal.param.name); });

TEST_P(ExpertConfigRefusal, NamesTheSetting) {
  const auto& refusal = GetParam();
  expect_refusal(refusal.family, refusal.patch, refusal.code, refusal.mention);
}

TEST(Config, Experts) {
  Json config = config_of("qwen3_moe");
  DecoderSpec spec = read_spec(config, "x").decoder;  // transformers' defaults
  EXPECT_EQ(spec.moe.router.experts, 128);
  EXPECT_EQ(spec.moe.router.top_k, 8);
  EXPECT_FALSE(spec.moe.router.normalise);
  EXPECT_EQ(spec.moe.d_ff, 768);
  EXPECT_EQ(spec.moe.shared_d_ff, 0);
  EXPECT_EQ(spec.moe.layers, std::vector<bool>(3, true));
  config.update(parse_json(
      R"({"num_local_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": true, "moe_intermediate_size": 32,
          "decoder_sparse_step": 2, "mlp_only_layers": [], "use_sliding_window": true, "sliding_window": 9})",
      "x"));
  spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.moe.router.experts, 16);
  EXPECT_EQ(spec.moe.router.top_k, 4);
  EXPECT_TRUE(spec.moe.router.normalise);
  EXPECT_EQ(spec.moe.d_ff, 32);
  EXPECT_EQ(spec.moe.layers, (std::vector<bool>{false, true, false}));
  EXPECT_EQ(spec.windows, std::vector<int>(3, 9));
  config["num_experts"] = 16;  // both names, one number
  EXPECT_EQ(read_spec(config, "x").decoder.moe.router.experts, 16);

  config = config_of("qwen2_moe");
  spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.moe.router.experts, 60);
  EXPECT_EQ(spec.moe.router.top_k, 4);
  EXPECT_EQ(spec.moe.shared_d_ff, 5632);
  EXPECT_TRUE(spec.qkv_bias);
  config["qkv_bias"] = false;
  EXPECT_FALSE(read_spec(config, "x").decoder.qkv_bias);

  spec = read_spec(config_of("mixtral"), "x").decoder;
  EXPECT_EQ(spec.moe.router.experts, 8);
  EXPECT_EQ(spec.moe.router.top_k, 2);
  EXPECT_TRUE(spec.moe.router.normalise);
  EXPECT_EQ(spec.moe.d_ff, 96);
  EXPECT_EQ(spec.windows, std::vector<int>(3, 0));
}

TEST(Config, GptOss) {
  Json config = config_of("gpt_oss");
  DecoderSpec spec = read_spec(config, "x").decoder;  // transformers' defaults
  EXPECT_EQ(spec.moe.router.experts, 128);
  EXPECT_EQ(spec.moe.router.top_k, 4);
  EXPECT_TRUE(spec.moe.router.normalise);
  EXPECT_EQ(spec.moe.d_ff, 96);
  EXPECT_EQ(spec.moe.activation, Activation::clamped_silu);
  EXPECT_TRUE(spec.moe.bias && spec.sinks && spec.qkv_bias && spec.o_bias);
  EXPECT_EQ(spec.windows, (std::vector<int>{128, 0, 128}));
  EXPECT_FLOAT_EQ(spec.rope.attention_factor, float(0.1 * std::log(32.0) + 1));  // yarn where nothing is said
  config.erase("max_position_embeddings");
  EXPECT_EQ(read_spec(config, "x").decoder.dims.context, 131072);
  config["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
  config["sliding_window"] = 9;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, (std::vector<int>{0, 9, 0}));
  config["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(read_spec(config, "x").decoder.rope.attention_factor, 1);
}

TEST(Config, AnythingButAnObjectIsRefused) {
  for (const char* text : {"[]", "5", "null", "\"llama\""}) EXPECT_THROW(read_spec(parse_json(text, "x"), "x"), Error);
}

TEST(Config, NeutralValuesOfForeignKeysAreFine) {
  Json config = config_of("llama");
  config.update(parse_json(
      R"({"final_logit_softcapping": null, "num_experts": 0, "rope_interleaved": false, "clip_qkv": null, "pretraining_tp": 1,
    "no_rope_layers": [], "logit_scale": 1.0, "residual_multiplier": 1, "attention_sink_size": -1,
    "architectures": ["LlamaModel", "LlamaForCausalLM"], "partial_rotary_factor": 1.0, "layer_types": ["full_attention", "full_attention", "full_attention"],
    "hidden_act": "swish", "bos_token_id": 1, "some_future_key": {"a": 1}})",
      "x"));
  EXPECT_EQ(read_spec(config, "x").family, "llama");
}

/// How a model is packaged changes nothing; another head does.
TEST(Config, NamesOfPackagings) {
  for (const char* name : {"LlamaForConditionalGeneration", "LlamaModel", "MyLlamaLMHeadModel", "VllmLlama"}) {
    Json config = config_of("llama");
    config["architectures"] = {name};
    EXPECT_EQ(read_spec(config, "x").family, "llama") << name;
  }
  for (const char* name :
       {"LlamaForSequenceClassification", "Qwen2ForRewardModel", "LlamaForTokenClassification", "LlamaForMaskedLM"}) {
    Json config = config_of("llama");
    config["architectures"] = {name};
    EXPECT_THROW(read_spec(config, "x"), Error) << name;
  }
}

TEST(Config, ReadsSizesAndDefaults) {
  const DecoderSpec spec = read_spec(config_of("llama"), "x").decoder;
  EXPECT_EQ(spec.dims.layers, 3);
  EXPECT_EQ(spec.dims.d_model, 64);
  EXPECT_EQ(spec.dims.heads, 4);
  EXPECT_EQ(spec.dims.kv_heads, 2);
  EXPECT_EQ(spec.dims.head_dim, 16);
  EXPECT_EQ(spec.dims.context, 512);
  EXPECT_DOUBLE_EQ(spec.eps, 1e-5);
  EXPECT_FALSE(spec.tied_known);
  EXPECT_FALSE(spec.qkv_bias || spec.o_bias || spec.mlp_bias || spec.qk_norm);
  EXPECT_EQ(spec.windows, std::vector<int>(3, 0));
  Json config = config_of("llama");
  config.erase("num_key_value_heads");
  EXPECT_EQ(read_spec(config, "x").decoder.dims.kv_heads, 4);
  config["head_dim"] = 32;
  EXPECT_EQ(read_spec(config, "x").decoder.dims.head_dim, 32);
}

TEST(Config, YarnLengthensTheContext) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    Json config = config_of(family);
    config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}};
    EXPECT_EQ(read_spec(config, "x").decoder.dims.context, 2048) << family;
  }
}

TEST(Config, FamiliesDifferInBiasesAndNorms) {
  EXPECT_EQ(families(),
            (std::vector<std::string>{"deepseek_v2", "deepseek_v3",   "gemma2",  "gemma3",      "gemma4",
                                      "glm4",        "glm4_moe_lite", "gpt_oss", "granite",     "granitemoehybrid",
                                      "lfm2",        "lfm2_moe",      "llama",   "ministral3",  "mistral",
                                      "mixtral",     "olmo2",         "olmo3",   "phi3",        "qwen2",
                                      "qwen2_moe",   "qwen3",         "qwen3_5", "qwen3_5_moe", "qwen3_moe",
                                      "qwen3_next",  "seed_oss",      "smollm3"}));
  EXPECT_TRUE(read_spec(config_of("qwen2"), "x").decoder.qkv_bias);
  EXPECT_FALSE(read_spec(config_of("qwen2"), "x").decoder.o_bias);
  EXPECT_TRUE(read_spec(config_of("qwen3"), "x").decoder.qk_norm);
  Json config = config_of("qwen3");
  config["attention_bias"] = true;
  EXPECT_TRUE(read_spec(config, "x").decoder.o_bias);
}

TEST(Config, TheTextHalvesOfModelsThatSeeAreTheirFamilies) {
  for (const auto& [half, family] : {std::pair{"qwen2_vl", "qwen2"},
                                     {"qwen2_vl_text", "qwen2"},
                                     {"qwen2_5_vl", "qwen2"},
                                     {"qwen2_5_vl_text", "qwen2"},
                                     {"qwen3_vl", "qwen3"},
                                     {"qwen3_vl_text", "qwen3"},
                                     {"qwen3_vl_moe", "qwen3_moe"},
                                     {"qwen3_vl_moe_text", "qwen3_moe"}}) {
    Json config = config_of(family);
    const ModelSpec plain = read_spec(config, "x");
    config["model_type"] = half;
    config["rope_scaling"] = {{"type", "mrope"}, {"mrope_section", {2, 3, 3}}};
    const ModelSpec spec = read_spec(config, "x");
    EXPECT_EQ(spec.family, family);
    EXPECT_EQ(spec.decoder.qkv_bias, plain.decoder.qkv_bias) << half;
    EXPECT_EQ(spec.decoder.qk_norm, plain.decoder.qk_norm) << half;
    EXPECT_EQ(spec.decoder.rope.inv_freq, plain.decoder.rope.inv_freq) << half;
    EXPECT_EQ(spec.decoder.dims.experts, plain.decoder.dims.experts) << half;
  }
}

TEST(Config, MistralsWindow) {
  Json config = config_of("mistral");
  EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(3, 4096));  // absent: transformers' default
  config["sliding_window"] = nullptr;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(3, 0));
  config["sliding_window"] = -1;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(3, 0)) << "how some tools write none";
  config["sliding_window"] = 7;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(3, 7));
}

TEST(Config, QwensWindows) {
  for (const char* family : {"qwen2", "qwen3"}) {
    Json config = config_of(family);
    config["sliding_window"] = 9;
    config["max_window_layers"] = 1;
    EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(3, 0)) << "off unless use_sliding_window";
    config["use_sliding_window"] = true;
    EXPECT_EQ(read_spec(config, "x").decoder.windows, (std::vector<int>{0, 9, 9}));
    config["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
    EXPECT_EQ(read_spec(config, "x").decoder.windows, (std::vector<int>{9, 0, 0}));
    config["layer_types"] = {"full_attention"};
    EXPECT_THROW(read_spec(config, "x"), Error);
    config["layer_types"] = {"full_attention", "full_attention", "chunked_attention"};
    EXPECT_THROW(read_spec(config, "x"), Error);
  }
}

}  // namespace
}  // namespace bumblebee::models
