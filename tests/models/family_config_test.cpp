// Configs of the small families: their defaults, what is their own in them, and what is refused by name.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
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

TEST(FamilyConfig, Phi3sContextIsTheOriginalOne) {
  Json config = family_config("phi3");
  config.update({{"original_max_position_embeddings", 128}, {"partial_rotary_factor", 0.75}, {"sliding_window", 9}});
  config["rope_scaling"] = {
      {"type", "longrope"}, {"short_factor", {1, 1, 2, 2, 4, 4}}, {"long_factor", {9, 9, 9, 9, 9, 9}}};
  const DecoderSpec spec = read_spec(config, "x").decoder;
  EXPECT_EQ(spec.dims.context, 128);
  EXPECT_EQ(spec.rope.dims, 12);  // of 16
  EXPECT_EQ(spec.windows, std::vector<int>(3, 9));
  EXPECT_NEAR(double(spec.rope.attention_factor), std::sqrt(1 + std::log(4.0) / std::log(128.0)), 1e-6);
  EXPECT_NEAR(double(spec.rope.inv_freq[5]), 1 / (4 * std::pow(10000.0, 10.0 / 12)), 1e-9);
  for (const Json& wrong : {Json(), Json({1, 1, 2, 2, 4}), Json({1, 1, 2, 2, 4, 0}), Json({1, 1, 2, 2, 4, "4"})}) {
    config["rope_scaling"]["short_factor"] = wrong;
    try {
      read_spec(config, "x");
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_config);
      EXPECT_NE(std::string(error.what()).find("short_factor"), std::string::npos) << error.what();
    }
  }
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
