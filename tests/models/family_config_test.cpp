// Configs of the small families: their defaults, what is their own in them, and what is refused by name.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "models/lfm2.h"
#include "models/olmo.h"
#include "models/registry.h"

namespace bumblebee::models {
namespace {

Json family_config(const std::string& family, const char* patch = "{}") {
  Json config = {{"model_type", family},     {"hidden_size", 64},        {"num_hidden_layers", 3},
                 {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"intermediate_size", 96},
                 {"vocab_size", 100},        {"hidden_act", "silu"},     {"max_position_embeddings", 512},
                 {"rms_norm_eps", 1e-5}};
  config.update(parse_json(patch, "patch"));
  return config;
}

struct OwnRefusal {
  const char *name, *family, *patch;  // null deletes nothing, it is null
  ErrorCode code;
  const char* mention;
};

class FamilyRefusal : public testing::TestWithParam<OwnRefusal> {};

constexpr OwnRefusal kFamilyRefusals[] = {
    {"olmo_gelu", "olmo2", R"({"hidden_act": "gelu"})", ErrorCode::unsupported, "'gelu'"},
    {"olmo_clips", "olmo2", R"({"clip_qkv": 8.0})", ErrorCode::unsupported, "clip_qkv"},
    {"olmo2_windows", "olmo2", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})",
     ErrorCode::unsupported, "sliding_attention"},
    {"olmo_bias", "olmo2", R"({"attention_bias": 1})", ErrorCode::bad_config, "'attention_bias'"},
    {"olmo3_no_window", "olmo3", R"({"sliding_window": null})", ErrorCode::bad_config, "'sliding_window'"},
    {"olmo3_window_zero", "olmo3", R"({"sliding_window": 0})", ErrorCode::bad_config, "'sliding_window'"},
    {"olmo3_types_short", "olmo3", R"({"layer_types": ["full_attention"]})", ErrorCode::bad_config, "a list of 3"},
    {"olmo3_types_other", "olmo3", R"({"layer_types": ["full_attention", "linear_attention", "full_attention"]})",
     ErrorCode::unsupported, "linear_attention"},
    // Which layers it is for, transformers 5 and 4 do not agree on.
    {"olmo3_one_rotation", "olmo3", R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0}})",
     ErrorCode::unsupported, "expected settings of full_attention or sliding_attention"},
    {"olmo3_two_thetas", "olmo3",
     R"({"rope_theta": 1e6, "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}})",
     ErrorCode::bad_config, "disagree"},
    {"ministral_windows", "ministral3", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})",
     ErrorCode::unsupported, "sliding_attention"},
    {"ministral_no_growth", "ministral3",
     R"({"rope_parameters": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128}})",
     ErrorCode::bad_config, "missing key 'llama_4_scaling_beta'"},
    {"ministral_growth_negative", "ministral3",
     R"({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": -0.1, "original_max_position_embeddings": 8}})",
     ErrorCode::bad_config, "'llama_4_scaling_beta'"},
    {"ministral_growth_text", "ministral3",
     R"({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": "1", "original_max_position_embeddings": 8}})",
     ErrorCode::bad_config, "'llama_4_scaling_beta'"},
    {"ministral_no_original", "ministral3",
     R"({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}})", ErrorCode::bad_config,
     "missing key 'original_max_position_embeddings'"},
    {"ministral_two_growths", "ministral3",
     R"({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8},
         "rope_scaling": {"rope_type": "default", "llama_4_scaling_beta": 0.2}})",
     ErrorCode::bad_config, "two places disagree"},
    {"ministral_rope_text", "ministral3", R"({"rope_parameters": "yarn"})", ErrorCode::bad_config, "'rope_parameters'"},
    {"growth_of_mistral", "mistral", R"({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}})",
     ErrorCode::unsupported, "llama_4_scaling_beta"},
    {"lfm2_biases", "lfm2", R"({"conv_bias": true})", ErrorCode::unsupported, "'conv_bias'"},
    {"lfm2_kernel_one", "lfm2", R"({"conv_L_cache": 1})", ErrorCode::bad_config, "'conv_L_cache'"},
    {"lfm2_kernel_long", "lfm2", R"({"conv_L_cache": 64})", ErrorCode::bad_config, "'conv_L_cache'"},
    {"lfm2_width", "lfm2", R"({"intermediate_size": null})", ErrorCode::bad_config, "'intermediate_size'"},
    {"lfm2_old_width", "lfm2", R"({"block_ff_dim": 0})", ErrorCode::bad_config, "'block_ff_dim'"},
    {"lfm2_factor", "lfm2", R"({"block_ffn_dim_multiplier": 0})", ErrorCode::bad_config, "'block_ffn_dim_multiplier'"},
    {"lfm2_factor_huge", "lfm2", R"({"block_ffn_dim_multiplier": 1e300})", ErrorCode::bad_config,
     "'block_ffn_dim_multiplier'"},
    {"lfm2_no_factor", "lfm2", R"({"block_ffn_dim_multiplier": null})", ErrorCode::unsupported,
     "'block_ffn_dim_multiplier'"},
    {"lfm2_multiple", "lfm2", R"({"block_multiple_of": 0})", ErrorCode::bad_config, "'block_multiple_of'"},
    {"lfm2_block_dim", "lfm2", R"({"block_dim": 32})", ErrorCode::bad_config, "'block_dim' and 'hidden_size' disagree"},
    {"lfm2_types_short", "lfm2", R"({"layer_types": ["conv"]})", ErrorCode::bad_config, "a list of 3"},
    {"lfm2_types_other", "lfm2", R"({"layer_types": ["conv", "full_attention", "sliding_attention"]})",
     ErrorCode::unsupported, "sliding_attention"},
    {"lfm2_numbers_text", "lfm2", R"({"full_attn_idxs": "1"})", ErrorCode::bad_config, "'full_attn_idxs'"},
    {"lfm2_numbers_beyond", "lfm2", R"({"full_attn_idxs": [0, 3]})", ErrorCode::bad_config, "expected numbers below 3"},
    {"lfm2_numbers_negative", "lfm2", R"({"full_attn_idxs": [-1]})", ErrorCode::bad_config, "expected numbers below 3"},
    {"lfm2_two_lists", "lfm2", R"({"full_attn_idxs": [0], "layer_types": ["conv", "full_attention", "conv"]})",
     ErrorCode::bad_config, "'layer_types' and 'full_attn_idxs' disagree"},
    {"lfm2_experts", "lfm2", R"({"num_experts": 32})", ErrorCode::unsupported, "num_experts"},
    {"lfm2_tie_text", "lfm2", R"({"tie_embedding": "yes"})", ErrorCode::bad_config, "'tie_embedding'"},
    {"granite4_states", "granitemoehybrid", R"({"layer_types": ["mamba", "attention", "mamba"]})",
     ErrorCode::unsupported, "state layers are not implemented, got \"mamba\""},
    {"granite4_states_newer", "granitemoehybrid",
     R"({"layers_block_type": ["full_attention", "linear_attention", "full_attention"]})", ErrorCode::unsupported,
     "'layers_block_type': expected attention"},
    {"granite4_silent", "granitemoehybrid", R"({"shared_intermediate_size": 96})", ErrorCode::unsupported,
     "'layer_types'"},
    {"granite4_short", "granitemoehybrid", R"({"layer_types": ["attention"], "shared_intermediate_size": 96})",
     ErrorCode::bad_config, "a list of 3"},
    {"granite4_experts", "granitemoehybrid",
     R"({"layer_types": ["attention", "attention", "attention"], "shared_intermediate_size": 96, "num_local_experts": 62})",
     ErrorCode::unsupported, "'num_local_experts'"},
    {"granite4_width", "granitemoehybrid", R"({"layer_types": ["attention", "attention", "attention"]})",
     ErrorCode::bad_config, "missing key 'shared_intermediate_size'"},
    {"granite4_positions", "granitemoehybrid",
     R"({"layer_types": ["attention", "attention", "attention"], "shared_intermediate_size": 96,
         "position_embedding_type": "alibi"})",
     ErrorCode::unsupported, "'position_embedding_type'"},
    {"olmo3_rope", "olmo3", R"({"rope_scaling": {"rope_type": "yarn"}})", ErrorCode::bad_config, "'factor'"},
};

INSTANTIATE_TEST_SUITE_P(Table, FamilyRefusal, testing::ValuesIn(kFamilyRefusals),
                         [](const auto& refusal) { return std::string(refusal.param.name); });

TEST_P(FamilyRefusal, NamesTheSetting) {
  const OwnRefusal& refusal = GetParam();
  try {
    read_spec(family_config(refusal.family, refusal.patch), "config.json");
    ADD_FAILURE() << "accepted " << refusal.patch;
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code()), to_string(refusal.code)) << e.what();
    EXPECT_EQ(std::string(e.what()).find("[config.json] "), 0u) << e.what();
    EXPECT_NE(std::string(e.what()).find(refusal.mention), std::string::npos) << e.what();
  }
}

TEST(FamilyConfig, GranitesFactors) {
  Json config = family_config("granite");
  EXPECT_EQ(read_spec(config, "x").decoder.attention_scale, 1.0f);  // not 1/sqrt(head_dim)
  config.update({{"embedding_multiplier", 12},
                 {"residual_multiplier", 0.25},
                 {"attention_multiplier", 0.5},
                 {"logits_scaling", 8}});
  const DecoderSpec spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.embedding_factor, 12.0f);
  EXPECT_EQ(spec.residual_factor, 0.25f);
  EXPECT_EQ(spec.attention_scale, 0.5f);
  EXPECT_EQ(spec.logits_factor, 0.125f);
  for (const char* key : {"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"}) {
    for (const double wrong : {0.0, -1.0}) {
      Json bad = config;
      bad[key] = wrong;
      try {
        read_spec(bad, "x");
        ADD_FAILURE() << key << " " << wrong;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::bad_config);
        EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
      }
    }
  }
}

/// As granite-4.0-micro has it: the config of a hybrid whose layers are all attention.
TEST(FamilyConfig, Granite4WithoutStates) {
  Json config = family_config("granitemoehybrid");
  config.update({{"layer_types", {"attention", "attention", "attention"}},
                 {"shared_intermediate_size", 80},
                 {"num_local_experts", 0},
                 {"num_experts_per_tok", 0},
                 {"position_embedding_type", "rope"},
                 {"mamba_n_heads", 64},
                 {"embedding_multiplier", 12},
                 {"attention_multiplier", 0.25}});
  const DecoderSpec spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.dims.d_ff, 80);
  EXPECT_EQ(spec.embedding_factor, 12.0f);
  EXPECT_EQ(spec.attention_scale, 0.25f);
  EXPECT_TRUE(spec.rotates.empty());
  config["position_embedding_type"] = "nope";
  EXPECT_EQ(read_spec(config, "x").decoder.rotates, std::vector<bool>(3, false));
}

TEST(FamilyConfig, Phi3sRotations) {
  Json config = family_config("phi3");
  config.update({{"original_max_position_embeddings", 128}, {"partial_rotary_factor", 0.75}, {"sliding_window", 9}});
  config["rope_scaling"] = {
      {"type", "longrope"}, {"short_factor", {1, 1, 2, 2, 4, 4}}, {"long_factor", {9, 9, 9, 9, 9, 8}}};
  const DecoderSpec spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.dims.context, 512);
  EXPECT_EQ(spec.dims.stretch_beyond, 128);
  EXPECT_EQ(spec.rope.dims, 12);  // of 16
  EXPECT_EQ(spec.windows, std::vector<int>(3, 9));
  EXPECT_NEAR(double(spec.rope.attention_factor), std::sqrt(1 + std::log(4.0) / std::log(128.0)), 1e-6);
  EXPECT_NEAR(double(spec.rope.inv_freq[5]), 1 / (4 * std::pow(10000.0, 10.0 / 12)), 1e-9);
  ASSERT_EQ(spec.rope.long_inv_freq.size(), 6u);
  EXPECT_NEAR(double(spec.rope.long_inv_freq[5]), 1 / (8 * std::pow(10000.0, 10.0 / 12)), 1e-9);
  for (const char* key : {"short_factor", "long_factor"}) {
    for (const Json& wrong : {Json(), Json({1, 1, 2, 2, 4}), Json({1, 1, 2, 2, 4, 0}), Json({1, 1, 2, 2, 4, "4"})}) {
      Json bad = config;
      bad["rope_scaling"][key] = wrong;
      try {
        read_spec(bad, "x");
        ADD_FAILURE() << key << " " << wrong;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::bad_config);
        EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
      }
    }
  }
  // As long as the original: nothing is ever longer.
  config["max_position_embeddings"] = 128;
  config["rope_scaling"].erase("long_factor");
  const DecoderSpec whole = read_spec(config, "x").decoder;
  EXPECT_EQ(whole.dims.context, 128);
  EXPECT_EQ(whole.dims.stretch_beyond, 0);
  EXPECT_TRUE(whole.rope.long_inv_freq.empty());
}

TEST(FamilyConfig, SmolLM3sLayersThatDoNotRotate) {
  Json config = family_config("smollm3");
  config["num_hidden_layers"] = 5;
  EXPECT_EQ(read_spec(config, "x").decoder.rotates, (std::vector<bool>{true, true, true, false, true}));
  config["no_rope_layer_interval"] = 2;
  EXPECT_EQ(read_spec(config, "x").decoder.rotates, (std::vector<bool>{true, false, true, false, true}));
  config["no_rope_layers"] = {0, 1, 1, 1, 0};
  EXPECT_EQ(read_spec(config, "x").decoder.rotates, (std::vector<bool>{false, true, true, true, false}));
  config["sliding_window"] = 7;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, std::vector<int>(5, 0));
  config["use_sliding_window"] = true;
  EXPECT_EQ(read_spec(config, "x").decoder.windows, (std::vector<int>{7, 0, 0, 0, 7}));
  config["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(read_spec(config, "x").decoder.windows, (std::vector<int>{0, 7, 0, 0, 0}));
}

TEST(FamilyConfig, Ministral3sQueries) {
  Json config = family_config("ministral3");
  config["max_position_embeddings"] = 262144;
  DecoderSpec spec = read_spec(config, "x").decoder;  // transformers' defaults
  EXPECT_EQ(spec.rope.query_growth, 0.1f);
  EXPECT_EQ(spec.rope.query_span, 16384);
  EXPECT_EQ(spec.rope.attention_factor, 1.0f);
  EXPECT_EQ(spec.dims.head_dim, 128);
  EXPECT_EQ(spec.dims.context, 262144);
  EXPECT_EQ(spec.windows, std::vector<int>(3, 0));
  EXPECT_FALSE(spec.tied_known);
  EXPECT_EQ(spec.rope.query_factor(16383), 1.0f);
  EXPECT_FLOAT_EQ(spec.rope.query_factor(16384), float(1 + 0.1 * std::log(2.0)));
  EXPECT_FLOAT_EQ(spec.rope.query_factor(5 * 16384 - 1), float(1 + 0.1 * std::log(5.0)));
  config["rope_parameters"] = {{"type", "yarn"},
                               {"rope_type", "yarn"},
                               {"rope_theta", 1e6},
                               {"factor", 4.0},
                               {"original_max_position_embeddings", 128},
                               {"max_position_embeddings", 512},
                               {"llama_4_scaling_beta", 0.25}};
  config["sliding_window"] = 9;
  config["head_dim"] = 16;
  spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.rope.query_growth, 0.25f);
  EXPECT_EQ(spec.rope.query_span, 128);
  EXPECT_EQ(spec.windows, std::vector<int>(3, 9));
}

/// Llava's files say of their text half only what is not Llama's or Mistral's default.
TEST(FamilyConfig, SizesThatNobodySaysAreTheFamilys) {
  const Json llava = {
      {"model_type", "llama"}, {"max_position_embeddings", 4096}, {"rms_norm_eps", 1e-5}, {"vocab_size", 32064}};
  const nn::ModelDims llama = read_spec(llava, "x").decoder.dims;
  EXPECT_EQ(llama.d_model, 4096);
  EXPECT_EQ(llama.layers, 32);
  EXPECT_EQ(llama.kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 128);
  EXPECT_EQ(llama.d_ff, 11008);
  EXPECT_EQ(llama.vocab, 32064);
  const Json next = {{"model_type", "mistral"},   {"intermediate_size", 14336}, {"max_position_embeddings", 32768},
                     {"num_key_value_heads", 8},  {"rms_norm_eps", 1e-5},       {"rope_theta", 1e6},
                     {"sliding_window", nullptr}, {"vocab_size", 32064}};
  const nn::ModelDims mistral = read_spec(next, "x").decoder.dims;
  EXPECT_EQ(mistral.d_model, 4096);
  EXPECT_EQ(mistral.kv_heads, 8);
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads"}) {
    Json some = llava;
    some[key] = 64;
    EXPECT_THROW(read_spec(some, "x"), Error) << key;  // half of what is needed is a broken file
  }
  Json qwen = llava;
  qwen["model_type"] = "qwen2";
  EXPECT_THROW(read_spec(qwen, "x"), Error);
}

TEST(FamilyConfig, Lfm2) {
  Json config = family_config("lfm2");
  Lfm2Spec spec = read_lfm2(config, "x");  // transformers' defaults
  EXPECT_EQ(spec.kernel, 3);
  EXPECT_EQ(spec.decoder.dims.d_ff, 256);  // two thirds of 96, in steps of 256
  EXPECT_TRUE(spec.decoder.dims.tied_head);
  EXPECT_DOUBLE_EQ(spec.decoder.eps, 1e-5);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(spec.decoder.dims.is_recurrent(i));
  EXPECT_NEAR(double(spec.decoder.rope.inv_freq[1]), std::pow(1e6, -2.0 / 16), 1e-7);

  config.update({{"block_ff_dim", 12288},
                 {"block_multiple_of", 256},
                 {"block_ffn_dim_multiplier", 1.0},
                 {"full_attn_idxs", {1}},
                 {"norm_eps", 1e-3},
                 {"tie_embedding", false},
                 {"conv_L_cache", 4},
                 {"tie_word_embeddings", true}});
  spec = read_lfm2(config, "x");
  EXPECT_EQ(spec.decoder.dims.d_ff, 8192);  // as LFM2-1.2B
  EXPECT_DOUBLE_EQ(spec.decoder.eps, 1e-3);
  EXPECT_FALSE(spec.decoder.dims.tied_head);
  EXPECT_TRUE(spec.decoder.dims.is_recurrent(0));
  EXPECT_FALSE(spec.decoder.dims.is_recurrent(1));
  EXPECT_EQ(spec.decoder.dims.kv_places[2].index, 1);
  EXPECT_EQ(spec.decoder.dims.kv_groups[1].state.conv_rows, 3);
  EXPECT_EQ(spec.decoder.dims.kv_groups[1].state.conv_cols, 64);
  config["layer_types"] = {"conv", "full_attention", "conv"};
  EXPECT_EQ(read_lfm2(config, "x").decoder.dims.kv_groups[0].layers, 1);
  config["block_ffn_dim_multiplier"] = 1.3;
  EXPECT_EQ(read_lfm2(config, "x").decoder.dims.d_ff, 10752);  // 10649 in steps of 256
  config["block_auto_adjust_ff_dim"] = false;
  EXPECT_EQ(read_lfm2(config, "x").decoder.dims.d_ff, 12288);
}

TEST(FamilyConfig, Olmo2) {
  Json config = family_config("olmo2");
  config.erase("rms_norm_eps");
  const OlmoSpec spec = read_olmo2(config, "x");
  EXPECT_DOUBLE_EQ(spec.decoder.eps, 1e-5);
  EXPECT_EQ(spec.decoder.windows, std::vector<int>(3, 0));
  EXPECT_NEAR(double(spec.decoder.rope.inv_freq[1]), std::pow(10000.0, -2.0 / 16), 1e-7);
  EXPECT_FALSE(spec.decoder.qkv_bias || spec.decoder.o_bias);
  EXPECT_EQ(read_spec(config, "x").family, "olmo2");
}

/// Both spellings of OLMo 3's two rotations: as its files have them, and as transformers 5 writes them.
TEST(FamilyConfig, Olmo3sLayersRotateByTheirKind) {
  Json config = family_config("olmo3");
  OlmoSpec spec = read_olmo3(config, "x");  // transformers' defaults
  EXPECT_EQ(spec.decoder.windows, std::vector<int>(3, 4096));
  EXPECT_NEAR(double(spec.window_rope.inv_freq[1]), std::pow(500000.0, -2.0 / 16), 1e-7);
  EXPECT_EQ(spec.window_rope.inv_freq, spec.decoder.rope.inv_freq);
  EXPECT_EQ(spec.decoder.dims.context, 512);

  const Json yarn = {{"rope_type", "yarn"}, {"factor", 8.0},    {"original_max_position_embeddings", 128},
                     {"beta_fast", 32.0},   {"beta_slow", 1.0}, {"attention_factor", 1.25}};
  config.update({{"rope_theta", 10000.0}, {"rope_scaling", yarn}, {"sliding_window", 7}});
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  spec = read_olmo3(config, "x");
  EXPECT_EQ(spec.decoder.windows, (std::vector<int>{7, 0, 7}));
  EXPECT_EQ(spec.decoder.rope.attention_factor, 1.25f);
  EXPECT_EQ(spec.window_rope.attention_factor, 1.0f);
  EXPECT_NEAR(double(spec.window_rope.inv_freq[1]), std::pow(10000.0, -2.0 / 16), 1e-7);
  EXPECT_LT(spec.decoder.rope.inv_freq[7], spec.window_rope.inv_freq[7] / 7);
  EXPECT_EQ(spec.decoder.dims.context, 1024);

  Json newer = config;
  newer.erase("rope_theta");
  newer.erase("rope_scaling");
  newer["rope_parameters"] = {{"full_attention", yarn},
                              {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
  newer["rope_parameters"]["full_attention"]["rope_theta"] = 10000.0;
  const OlmoSpec same = read_olmo3(newer, "x");
  EXPECT_EQ(same.decoder.rope.inv_freq, spec.decoder.rope.inv_freq);
  EXPECT_EQ(same.window_rope.inv_freq, spec.window_rope.inv_freq);
}

}  // namespace
}  // namespace bumblebee::models
