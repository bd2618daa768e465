// Configs of Gemmas: their defaults, what they say of layers and rotations, and what is refused by name.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "models/gemma.h"
#include "models/gemma4.h"
#include "models/registry.h"

namespace bumblebee::models {
namespace {

Json gemma(const std::string& type, const char* patch = "{}") {
  Json config = {{"model_type", type},
                 {"hidden_size", 64},
                 {"num_hidden_layers", 4},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 16},
                 {"intermediate_size", 96},
                 {"vocab_size", 100},
                 {"hidden_activation", "gelu_pytorch_tanh"},
                 {"max_position_embeddings", 512}};
  config.merge_patch(parse_json(patch, "patch"));
  return config;
}

struct GemmaPatch {
  const char* name;
  const char* type;
  const char* patch;
  ErrorCode code;
  const char* mention;
};

constexpr GemmaPatch kGemmaPatches[] = {
    {"erf", "gemma3_text", R"({"hidden_activation": "gelu"})", ErrorCode::unsupported, "'hidden_activation'"},
    {"silu", "gemma2", R"({"hidden_activation": "silu"})", ErrorCode::unsupported, "got 'silu'"},
    {"ahead2", "gemma2", R"({"use_bidirectional_attention": true})", ErrorCode::unsupported, "use_bidirectional"},
    {"ahead3", "gemma3_text", R"({"use_bidirectional_attention": true})", ErrorCode::unsupported, "use_bidirectional"},
    {"ahead4", "gemma4_text", R"({"use_bidirectional_attention": "all"})", ErrorCode::unsupported, "use_bidirectional"},
    {"cap_zero", "gemma2", R"({"final_logit_softcapping": 0})", ErrorCode::bad_config, "'final_logit_softcapping'"},
    {"cap_text", "gemma4_text", R"({"final_logit_softcapping": "30"})", ErrorCode::bad_config, "softcapping"},
    {"cap_negative", "gemma2", R"({"attn_logit_softcapping": -50})", ErrorCode::bad_config, "'attn_logit_softcapping'"},
    {"cap_of_3", "gemma3_text", R"({"attn_logit_softcapping": 50})", ErrorCode::unsupported,
     "'attn_logit_softcapping'"},
    {"cap_of_4", "gemma4_text", R"({"attn_logit_softcapping": 50})", ErrorCode::unsupported,
     "'attn_logit_softcapping'"},
    {"scalar_zero", "gemma3_text", R"({"query_pre_attn_scalar": 0})", ErrorCode::bad_config, "'query_pre_attn_scalar'"},
    {"scalar_of_4", "gemma4_text", R"({"query_pre_attn_scalar": 256})", ErrorCode::unsupported,
     "query_pre_attn_scalar"},
    {"types_short", "gemma3_text", R"({"layer_types": ["full_attention"]})", ErrorCode::bad_config, "a list of 4"},
    {"types_other", "gemma4_text",
     R"({"layer_types": ["full_attention", "linear_attention", "full_attention", "full_attention"]})",
     ErrorCode::unsupported, "linear_attention"},
    {"pattern", "gemma3_text", R"({"sliding_window_pattern": 0})", ErrorCode::bad_config, "'sliding_window_pattern'"},
    {"window", "gemma2", R"({"sliding_window": 0})", ErrorCode::bad_config, "'sliding_window'"},
    {"rope_kind", "gemma3_text", R"({"rope_parameters": {"chunked": {"rope_theta": 1e4}}})", ErrorCode::unsupported,
     "'rope_parameters.chunked'"},
    {"rope_flat", "gemma3_text", R"({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})",
     ErrorCode::unsupported, "'rope_parameters.rope_theta'"},
    {"rope_twice", "gemma3_text", R"({"rope_theta": 5e5, "rope_parameters": {"full_attention": {"rope_theta": 1e6}}})",
     ErrorCode::bad_config, "disagree"},
    {"rope_type", "gemma4_text", R"({"rope_parameters": {"full_attention": {"rope_type": "spiral"}}})",
     ErrorCode::unsupported, "'spiral'"},
    {"rope_part", "gemma4_text",
     R"({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 1.5}}})",
     ErrorCode::bad_config, "'partial_rotary_factor'"},
    {"shared_all", "gemma4_text", R"({"num_kv_shared_layers": 4})", ErrorCode::bad_config, "'num_kv_shared_layers'"},
    {"shared_kind", "gemma4_text",
     R"({"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention",
         "full_attention"]})",
     ErrorCode::bad_config, "the kind of layer 3"},
    {"experts_unknown", "gemma4_text", R"({"enable_moe_block": true})", ErrorCode::bad_config, "'num_experts'"},
    {"experts_of_a_row", "gemma4_text", R"({"enable_moe_block": true, "num_experts": 8192, "top_k_experts": 2000,
                                            "moe_intermediate_size": 32})",
     ErrorCode::bad_config, "'top_k_experts'"},
    {"experts_few", "gemma4_text", R"({"enable_moe_block": true, "num_experts": 4, "top_k_experts": 5,
        "moe_intermediate_size": 32})",
     ErrorCode::bad_config, "'top_k_experts'"},
    {"aside_vocab", "gemma4_text", R"({"vocab_size_per_layer_input": 50})", ErrorCode::bad_config,
     "'vocab_size_per_layer_input'"},
    {"head_odd", "gemma4_text", R"({"global_head_dim": 33})", ErrorCode::bad_config, "'global_head_dim'"},
    {"heads_global", "gemma4_text", R"({"attention_k_eq_v": true, "num_global_key_value_heads": 3})",
     ErrorCode::bad_config, "'num_global_key_value_heads'"},
    {"per_layer_config", "gemma4_text", R"({"per_layer_config": {}})", ErrorCode::unsupported, "'per_layer_config'"},
    {"classifier", "gemma3_text", R"({"architectures": ["Gemma3ForSequenceClassification"]})", ErrorCode::unsupported,
     "Gemma3ForSequenceClassification"},
    {"eps", "gemma3_text", R"({"rms_norm_eps": -1})", ErrorCode::bad_config, "'rms_norm_eps'"},
};

class GemmaRefusal : public testing::TestWithParam<GemmaPatch> {};
INSTANTIATE_TEST_SUITE_P(All, GemmaRefusal, testing::ValuesIn(kGemmaPatches),
                         [](const auto& p) { return p.param.name; });

TEST_P(GemmaRefusal, NamesTheKey) {
  try {
    read_spec(gemma(GetParam().type, GetParam().patch), "config.json");
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code) << error.what();
    EXPECT_NE(std::string(error.what()).find(GetParam().mention), std::string::npos) << error.what();
  }
}

TEST(GemmaConfig, WindowsFollowPatternsAndTypes) {
  EXPECT_EQ(read_gemma2(gemma("gemma2"), "x").windows, (std::vector<int>{4096, 0, 4096, 0}));
  EXPECT_EQ(read_gemma3(gemma("gemma3_text"), "x").windows, (std::vector<int>(4, 4096)));
  EXPECT_EQ(read_gemma3(gemma("gemma3", R"({"sliding_window_pattern": 2, "sliding_window": 9})"), "x").windows,
            (std::vector<int>{9, 0, 9, 0}));
  const char* types = R"({"layer_types": ["full_attention", "sliding_attention", "sliding_attention",
      "sliding_attention"], "sliding_window": 9, "sliding_window_pattern": 1})";
  EXPECT_EQ(read_gemma3(gemma("gemma3", types), "x").windows, (std::vector<int>{0, 9, 9, 9}));
  EXPECT_EQ(read_gemma4(gemma("gemma4", types), "x").windows, (std::vector<int>{0, 9, 9, 0}))
      << "the last layer of a Gemma 4 sees everything";
}

TEST(GemmaConfig, KindsOfLayersTurnByTheirOwn) {
  const GemmaSpec old = read_gemma3(gemma("gemma3", R"({"rope_theta": 5e5, "rope_local_base_freq": 2e4,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}})"),
                                    "x");
  const GemmaSpec fresh = read_gemma3(gemma("gemma3", R"({"rope_parameters": {
      "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 8.0},
      "sliding_attention": {"rope_theta": 2e4, "rope_type": "default"}}})"),
                                      "x");
  EXPECT_EQ(old.full_rope.inv_freq, fresh.full_rope.inv_freq);
  EXPECT_EQ(old.window_rope.inv_freq, fresh.window_rope.inv_freq);
  EXPECT_NEAR(old.full_rope.inv_freq[1], std::pow(5e5, -2.0 / 16) / 8, 1e-8);
  EXPECT_NEAR(old.window_rope.inv_freq[1], std::pow(2e4, -2.0 / 16), 1e-7);
  EXPECT_EQ(old.dims.context, 512) << "the context is the stretched one";
  const Gemma4Spec four = read_gemma4(gemma("gemma4", R"({"global_head_dim": 32})"), "x");
  ASSERT_EQ(four.full_rope.inv_freq.size(), 16u);
  EXPECT_NEAR(four.full_rope.inv_freq[3], std::pow(1e6, -6.0 / 32), 1e-7);
  EXPECT_EQ(four.full_rope.inv_freq[4], 0) << "a quarter of the pairs turns";
}

TEST(GemmaConfig, DefaultsAreThoseOfTransformers) {
  const GemmaSpec two = read_gemma2(gemma("gemma2"), "x"),
                  three = read_gemma3(Json{{"model_type", "gemma3_text"}}, "x");
  EXPECT_EQ(two.attention_cap, 50);
  EXPECT_EQ(two.logits_cap, 30);
  EXPECT_EQ(two.scale, 1.0f / 16);
  EXPECT_EQ(read_gemma2(gemma("gemma2", R"({"final_logit_softcapping": null})"), "x").logits_cap, 30)
      << "merge_patch takes the key out";
  EXPECT_EQ(three.dims.vocab, 262208);
  EXPECT_EQ(three.dims.layers, 26);
  EXPECT_EQ(three.windows[5], 0);
  EXPECT_EQ(three.logits_cap, 0);
  const Gemma4Spec four = read_gemma4(Json{{"model_type", "gemma4_text"}}, "x"),
                   unified = read_gemma4(Json{{"model_type", "gemma4_unified_text"}}, "x");
  EXPECT_EQ(four.aside, 256);
  EXPECT_EQ(four.full_head_dim, 512);
  EXPECT_EQ(four.shared_from, 30);
  EXPECT_FALSE(four.double_wide);
  EXPECT_EQ(four.logits_cap, 0);
  EXPECT_EQ(unified.aside, 0);
  EXPECT_EQ(unified.windows[0], 1024);
}

TEST(GemmaConfig, SharedLayersReadTheLastOfTheirKind) {
  const Gemma4Spec spec = read_gemma4(gemma("gemma4", R"({"num_hidden_layers": 6, "num_kv_shared_layers": 2,
      "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                      "sliding_attention", "full_attention"]})"),
                                      "x");
  EXPECT_EQ(spec.source(4), 3);
  EXPECT_EQ(spec.source(5), 1);
  EXPECT_EQ(spec.source(2), 2);
}

TEST(GemmaConfig, NamesOfPackagingsAreTheFamilies) {
  for (const auto& [name, family] : {std::pair{"gemma3_text", "gemma3"},
                                     {"gemma4_text", "gemma4"},
                                     {"gemma4_unified", "gemma4"},
                                     {"gemma4_unified_text", "gemma4"}})
    EXPECT_EQ(read_spec(gemma(name), "x").family, family);
}

}  // namespace
}  // namespace bumblebee::models
