// Families with latent attention: what their configs may say, what their files may leave out, and that the two ways in
// which files have the heads' products are one model.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/latent.h"
#include "quant/elements.h"
#include "tests/models/running.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;

Json latent_config(const std::string& family) { return TinyModel{.family = family}.config(); }

Json glm() {
  Json config = latent_config("deepseek_v3");
  config["model_type"] = "glm4_moe_lite";
  return config;
}

std::string refusal(const Json& config, ErrorCode code) {
  try {
    read_spec(config, "config.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(LatentConfig, IsRead) {
  for (const char* family : {"deepseek_v2", "deepseek_v3"})
    EXPECT_EQ(read_spec(latent_config(family), "c").family, family);
  EXPECT_EQ(read_spec(glm(), "c").family, "glm4_moe_lite");
  for (const char* alias : {"kimi_k2", "joyai_llm_flash"}) {
    Json config = latent_config("deepseek_v3");
    config["model_type"] = alias;
    EXPECT_EQ(read_spec(config, "c").family, "deepseek_v3");
  }
}

TEST(LatentConfig, WhatIsNotSaidIsAsInTransformers) {
  Json v2 = latent_config("deepseek_v2"), v3 = latent_config("deepseek_v3"), lite = glm();
  for (Json* config : {&v2, &v3, &lite}) config->erase("routed_scaling_factor");
  EXPECT_FLOAT_EQ(read_deepseek_v2(v2, "c").router.scale, 1.0f);
  EXPECT_FLOAT_EQ(read_deepseek_v3(v3, "c").router.scale, 2.5f);
  EXPECT_FLOAT_EQ(read_glm4_moe_lite(lite, "c").router.scale, 1.8f);
}

TEST(LatentConfig, ContradictionsAreRefused) {
  struct Broken {
    const char* family;
    const char* patch;
    ErrorCode code;
    const char* mention;
  };
  const Broken refusals[] = {
      {"deepseek_v3", R"({"topk_method": "greedy"})", ErrorCode::unsupported, "'topk_method': expected noaux_tc"},
      {"deepseek_v3", R"({"scoring_func": "softmax"})", ErrorCode::unsupported, "'scoring_func': expected sigmoid"},
      {"deepseek_v3", R"({"n_group": 3})", ErrorCode::bad_config, "'n_group': expected a divisor of 8"},
      {"deepseek_v3", R"({"topk_group": 3})", ErrorCode::bad_config, "'topk_group'"},
      {"deepseek_v3", R"({"topk_group": 0})", ErrorCode::bad_config, "'topk_group'"},
      {"deepseek_v3", R"({"num_experts_per_tok": 5})", ErrorCode::bad_config, "expected at most 4 experts, got 5"},
      {"deepseek_v3", R"({"num_experts_per_tok": null})", ErrorCode::bad_config, "'num_experts_per_tok'"},
      {"deepseek_v3", R"({"qk_rope_head_dim": 15})", ErrorCode::bad_config, "'qk_rope_head_dim': expected an even"},
      {"deepseek_v3", R"({"kv_lora_rank": 0})", ErrorCode::bad_config, "'kv_lora_rank'"},
      {"deepseek_v3", R"({"q_lora_rank": -1})", ErrorCode::bad_config, "'q_lora_rank'"},
      {"deepseek_v3", R"({"v_head_dim": "wide"})", ErrorCode::bad_config, "'v_head_dim'"},
      {"deepseek_v3", R"({"moe_layer_freq": 0})", ErrorCode::bad_config, "'moe_layer_freq'"},
      {"deepseek_v3", R"({"n_shared_experts": -1})", ErrorCode::bad_config, "'n_shared_experts'"},
      {"deepseek_v3", R"({"num_nextn_predict_layers": -1})", ErrorCode::bad_config, "'num_nextn_predict_layers'"},
      {"deepseek_v3", R"({"mlp_layer_types": ["dense"]})", ErrorCode::bad_config, "'mlp_layer_types'"},
      {"deepseek_v3", R"({"mlp_layer_types": ["dense", "wide"]})", ErrorCode::unsupported, "'mlp_layer_types'"},
      {"deepseek_v3", R"({"mlp_layer_types": ["sparse", "sparse"]})", ErrorCode::bad_config,
       "'mlp_layer_types' and 'first_k_dense_replace' disagree"},
      {"deepseek_v3", R"({"rope_scaling": {"type": "yarn", "mscale_all_dim": 1}})", ErrorCode::bad_config, "'factor'"},
      {"deepseek_v3", R"({"layer_types": ["sliding_attention", "full_attention"]})", ErrorCode::unsupported,
       "layer_types"},
      {"deepseek_v2", R"({"topk_method": "noaux_tc"})", ErrorCode::unsupported, "'topk_method': expected greedy"},
      {"deepseek_v2", R"({"norm_topk_prob": true})", ErrorCode::unsupported, "'norm_topk_prob': expected false"},
      {"deepseek_v2", R"({"scoring_func": "sigmoid"})", ErrorCode::unsupported, "'scoring_func': expected softmax"},
      {"deepseek_v2", R"({"n_group": null})", ErrorCode::bad_config, "'n_group'"},
      {"deepseek_v2", R"({"topk_group": null})", ErrorCode::bad_config, "'topk_group'"},
  };
  for (const Broken& r : refusals) {
    Json config = latent_config(r.family);
    config.update(parse_json(r.patch, "patch"));
    EXPECT_NE(refusal(config, r.code).find(r.mention), std::string::npos) << r.patch << ": " << refusal(config, r.code);
  }
}

/// What a cached token takes: one vector of latents and rotated features.
TEST(Latent, ATokenIsCachedOnce) {
  const TinyModel tiny{.family = "deepseek_v3"};
  const Runner runner(create_reference(), tiny, {});
  const KvShape shape = runner.model().dims().kv_shape(16, 4, DType::bf16);
  EXPECT_EQ(page_bytes(shape), uint64_t(tiny.layers * 16 * (TinyModel::kRank + tiny.head_dim) * 2));
  KvShape narrow = shape;
  narrow.dtype = DType::i8;
  EXPECT_EQ(page_bytes(narrow), uint64_t(tiny.layers * 16 * (TinyModel::kRank + tiny.head_dim + 2 * 4)));
}

/// kv_b_proj's halves as mlx-lm stacks them, from the same dense numbers.
TEST(Latent, HalvesAreTheWhole) {
  const TinyModel tiny{.family = "deepseek_v2"};
  MemoryWeights whole = tiny.weights(), halves = tiny.weights();
  const int rows = TinyModel::kNope + TinyModel::kValue, rank = TinyModel::kRank;
  for (int i = 0; i < tiny.layers; ++i) {
    const std::string at = "model.layers." + std::to_string(i) + ".self_attn.";
    const HostWeight both = whole.matrix(at + "kv_b_proj", tiny.heads * rows, rank);
    std::vector<float> embed, unembed, row(size_t(rank), 0.0f);
    for (int h = 0; h < tiny.heads; ++h) {
      std::vector<float> transposed(size_t(rank) * TinyModel::kNope);
      for (int n = 0; n < rows; ++n) {
        decode_row<float>(both, h * rows + n, row);
        if (n >= TinyModel::kNope) unembed.insert(unembed.end(), row.begin(), row.end());
        for (int k = 0; n < TinyModel::kNope && k < rank; ++k)
          transposed[size_t(k) * TinyModel::kNope + size_t(n)] = row[size_t(k)];
      }
      embed.insert(embed.end(), transposed.begin(), transposed.end());
    }
    halves.remove(at + "kv_b_proj");
    halves.add_stack(at + "embed_q", dense_weight(embed, tiny.heads * rank, TinyModel::kNope, DType::f32), tiny.heads);
    halves.add_stack(at + "unembed_out", dense_weight(unembed, tiny.heads * TinyModel::kValue, rank, DType::f32),
                     tiny.heads);
  }
  whole.rewind();
  const std::vector<int32_t> tokens = random_tokens(4, 19, tiny.vocab);
  const ModelSpec spec = read_spec(tiny.config(), "c");
  Runner one(create_reference(), spec, whole, {}), other(create_reference(), spec, halves, {});
  const std::vector<float> got = one.step({{0, tokens}}).front(), want = other.step({{0, tokens}}).front();
  EXPECT_LT(relative_to_rms(got, std::vector<double>(want.begin(), want.end())), 1e-6);
}

/// Layers that guess tokens ahead are not missed, and anything else beside the model is.
TEST(Latent, FurtherLayersAreLeftOut) {
  const TinyModel tiny{.family = "deepseek_v3"};
  Json config = tiny.config();
  MemoryWeights weights = tiny.weights();
  weights.add_vector("model.layers.2.enorm.weight", dense_weight(std::vector<float>(4, 1.0f), 1, 4, DType::f32));
  nn::Loader load(weights, nullptr);
  EXPECT_NE(make_model(read_spec(config, "c"), load), nullptr);
  config["num_nextn_predict_layers"] = 0;
  weights.rewind();
  nn::Loader again(weights, nullptr);
  EXPECT_THROW(make_model(read_spec(config, "c"), again), Error);
}

/// Narrow caches stay near the exact one, on every set of instructions.
TEST(Latent, CachesOfEveryTypeAnswerAlike) {
  const TinyModel tiny{.family = "deepseek_v3", .format = Format::affine(8, 32, DType::bf16, DType::bf16)};
  const std::vector<int32_t> tokens = random_tokens(8, 40, tiny.vocab);
  const std::vector<float> exact = Runner(create_reference(), tiny, {}).step({{0, tokens}}).front();
  const std::vector<double> want(exact.begin(), exact.end());
  for (const Target& target : exact_targets()) {
    if (!lacked(target.backend, tiny).empty() || is_reference(target)) continue;
    for (const auto& [type, most] :
         {std::pair(DType::f32, 1e-4), {DType::bf16, 0.1}, {DType::f16, 0.02}, {DType::i8, 0.2}}) {
      Runner runner(target.create(), tiny, {.kv = type});
      EXPECT_LT(relative_to_rms(runner.step({{0, tokens}}).front(), want), most)
          << target.name() << " " << to_string(type);
    }
  }
}

}  // namespace
}  // namespace bumblebee::models
