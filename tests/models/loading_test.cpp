// Strict loading: a model gets every tensor it needs in the right shape and nothing else, or an error that names the
// tensor.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "tests/models/running.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;

std::string load_error(const Json& config, MemoryWeights weights) {
  nn::Loader load(weights, nullptr);
  try {
    make_model(read_spec(config, "config.json"), load);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::bad_file) << e.what();
    return e.what();
  }
  return "";
}

class Loading : public testing::TestWithParam<const char*> {
 protected:
  TinyModel tiny() const { return {.family = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(Families, Loading,
                         testing::Values("llama", "mistral", "mixtral", "olmo2", "qwen2", "qwen2_moe", "qwen3",
                                         "qwen3_moe"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(Loading, TakesEveryTensor) {
  EXPECT_EQ(load_error(tiny().config(), tiny().weights()), "");
  TinyModel tied = tiny();
  tied.tied = true;
  EXPECT_EQ(load_error(tied.config(), tied.weights()), "");
}

/// Every tensor of the model in turn: removed, it is named.
TEST_P(Loading, NamesEachMissingTensor) {
  MemoryWeights all = tiny().weights();
  const std::vector<std::string> names = all.unclaimed();
  EXPECT_GT(names.size(), 15u);
  for (const std::string& name : names) {
    MemoryWeights weights = tiny().weights();
    const bool vector = name.ends_with("norm.weight") || name.ends_with(".bias");
    weights.remove(vector ? name : name.substr(0, name.size() - std::string(".weight").size()));
    EXPECT_NE(load_error(tiny().config(), weights).find(name), std::string::npos) << name;
  }
}

TEST_P(Loading, NamesTensorsThatTheModelDoesNotUse) {
  Random random(1);
  for (const char* name : {"model.layers.2.input_layernorm.weight", "model.layers.0.self_attn.o_proj.bias",
                           "model.layers.0.mlp.experts.weight", "visual.patch.weight"}) {
    MemoryWeights weights = tiny().weights();
    weights.add_vector(name, random_dense(random, 1, 4, DType::f32, 1));
    EXPECT_NE(load_error(tiny().config(), weights).find(name), std::string::npos) << name;
  }
}

/// A config that disagrees with the weights in any size is found by the tensor it concerns.
TEST_P(Loading, NamesMisshapenTensors) {
  const auto with = [&](const char* key, int value) {
    Json config = tiny().config();
    config[key] = value;
    return load_error(config, tiny().weights());
  };
  EXPECT_NE(with("vocab_size", 81).find("model.embed_tokens.weight': expected [81, 64], got [80, 64]"),
            std::string::npos);
  if (!tiny().has_experts()) {
    EXPECT_NE(
        with("intermediate_size", 95).find("model.layers.0.mlp.gate_proj.weight': expected [95, 64], got [96, 64]"),
        std::string::npos);
  } else {
    const bool mixtral = tiny().family == "mixtral";
    const std::string at = mixtral ? "model.layers.0.block_sparse_moe." : "model.layers.0.mlp.";
    EXPECT_NE(with(mixtral ? "intermediate_size" : "moe_intermediate_size", 31)
                  .find(at + "switch_mlp.gate_proj.weight': expected [8, 31, 64], got [8, 32, 64]"),
              std::string::npos);
    EXPECT_NE(
        with(mixtral ? "num_local_experts" : "num_experts", 9).find(at + "gate.weight': expected [9, 64], got [8, 64]"),
        std::string::npos);
  }
  if (tiny().family == "qwen2_moe") {
    EXPECT_NE(with("shared_expert_intermediate_size", 95).find("shared_expert.gate_proj.weight': expected [95, 64]"),
              std::string::npos);
  }
  EXPECT_NE(with("head_dim", 18).find("q_proj.weight': expected [72, 64], got [64, 64]"), std::string::npos);
  EXPECT_NE(with("num_key_value_heads", 4).find("k_proj.weight': expected [64, 64], got [32, 64]"), std::string::npos);
  EXPECT_NE(with("num_hidden_layers", 3).find("model.layers.2."), std::string::npos);
  EXPECT_NE(with("num_hidden_layers", 1).find("model.layers.1."), std::string::npos);
}

TEST_P(Loading, ReportsItsSites) {
  MemoryWeights weights = tiny().weights();
  nn::Loader load(weights, nullptr);
  const auto model = make_model(read_spec(tiny().config(), "c"), load);
  std::vector<nn::TargetModule> linears, norms;
  for (const nn::TargetModule& module : model->target_modules()) {
    if (module.kind == nn::TargetModule::Kind::linear) linears.push_back(module);
    if (module.kind == nn::TargetModule::Kind::norm) norms.push_back(module);
  }
  const std::string family = tiny().family;
  ASSERT_EQ(linears.size(), 2u * (family == "qwen2_moe" ? 9u : tiny().has_experts() ? 5u : 7u) + 1u);
  EXPECT_EQ(linears[0].name, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(linears[0].bias, family.starts_with("qwen2"));
  if (!tiny().has_experts()) {
    EXPECT_EQ(linears[6].name, "model.layers.0.mlp.down_proj");
    EXPECT_EQ(linears[6].in, 96);
    EXPECT_EQ(linears[6].out, 64);
  } else {
    EXPECT_TRUE(linears[4].router);
    EXPECT_EQ(linears[4].out, 8);
  }
  const auto stacks =
      std::count_if(model->target_modules().begin(), model->target_modules().end(),
                    [](const nn::TargetModule& module) { return module.kind == nn::TargetModule::Kind::experts; });
  EXPECT_EQ(stacks, tiny().has_experts() ? 6 : 0);
  EXPECT_EQ(!load.operations().empty(), tiny().has_experts());
  EXPECT_EQ(linears.back().name, "lm_head");
  EXPECT_EQ(norms.size(), 2u * (family.starts_with("qwen3") || family == "olmo2" ? 4u : 2u) + 1u);
  EXPECT_EQ(norms.back().name, "model.norm");
  EXPECT_EQ(model->target_modules()[0].name, "model.embed_tokens");
  EXPECT_EQ(model->target_modules()[0].kind, nn::TargetModule::Kind::embedding);
}

/// Hugging Face's files have a module for each expert; the model is the same.
TEST(LoadingExperts, MayBeApart) {
  for (const char* family : {"mixtral", "qwen2_moe", "qwen3_moe"}) {
    SCOPED_TRACE(family);
    const TinyModel stacked{.family = family, .format = Format::affine(4, 32, DType::bf16, DType::bf16)};
    TinyModel apart = stacked;
    apart.apart = true;
    EXPECT_EQ(load_error(apart.config(), apart.weights()), "");
    const std::vector<int32_t> tokens = random_tokens(3, 9, stacked.vocab);
    for (const Target& target : every_target()) {
      if (!lacked(target.backend, stacked).empty() || target.options.threads > 1) continue;
      EXPECT_EQ(Runner(target.create(), apart, {}).step({{0, tokens}}),
                Runner(target.create(), stacked, {}).step({{0, tokens}}))
          << target.name();
    }
    MemoryWeights weights = apart.weights();
    const std::string last =
        cat("model.layers.1.", apart.family == "mixtral" ? "block_sparse_moe.experts.7.w2" : "mlp.experts.7.down_proj");
    weights.remove(last);
    EXPECT_NE(load_error(apart.config(), weights).find(last), std::string::npos);
    Random random(5);
    weights.add_matrix(last, random_weight(random, 64, 32, Format::dense(DType::f16), 1));
    EXPECT_NE(
        load_error(apart.config(), weights).find("expected affine 4-bit group 32 (bf16) as the first one has, got f16"),
        std::string::npos);
  }
}

/// Hugging Face's files have convolutions the other way round, and norms that are added to one: the model is the same.
TEST(LoadingHybrids, ByTorchOrByMlx) {
  for (const char* family : {"qwen3_5", "qwen3_next"}) {
    SCOPED_TRACE(family);
    const TinyModel mlx{.family = family, .layers = 3};
    TinyModel torch = mlx;
    torch.by_torch = true;
    EXPECT_EQ(load_error(mlx.config(), mlx.weights()), "");
    EXPECT_EQ(load_error(torch.config(), torch.weights()), "");
    const std::vector<int32_t> tokens = random_tokens(3, 9, mlx.vocab);
    // Norms of heads have a mean of 1.5 here: one of the two sums that make it is rounded in another place.
    const std::vector<float> want = Runner(create_reference(), mlx, {}).step({{0, tokens}}).front();
    EXPECT_LT(relative_to_rms(Runner(create_reference(), torch, {}).step({{0, tokens}}).front(),
                              std::vector<double>(want.begin(), want.end())),
              1e-5);
    MemoryWeights mixed = mlx.weights();
    Random random(5);
    mixed.add_depthwise("model.layers.0.linear_attn.conv1d.weight", random_dense(random, 160, 4, DType::f32, 1), true);
    EXPECT_NE(load_error(mlx.config(), mixed).find("conv1d of 2 layers: expected all"), std::string::npos);
    for (const char* name : {"A_log", "dt_bias", "norm.weight", "conv1d.weight"}) {
      MemoryWeights weights = mlx.weights();
      weights.remove(cat("model.layers.2.linear_attn.", name));
      EXPECT_NE(load_error(mlx.config(), weights).find(name), std::string::npos) << name;
    }
  }
}

/// Both layouts of LFM2's convolutions, and each of its tensors.
TEST(LoadingHybrids, ShortConvolutions) {
  const TinyModel mlx{.family = "lfm2", .layers = 4};
  TinyModel torch = mlx;
  torch.by_torch = true;
  const std::vector<int32_t> tokens = random_tokens(3, 9, mlx.vocab);
  EXPECT_EQ(Runner(create_reference(), torch, {}).step({{0, tokens}}),
            Runner(create_reference(), mlx, {}).step({{0, tokens}}));
  for (const std::string& name : mlx.weights().unclaimed()) {
    MemoryWeights weights = mlx.weights();
    const bool vector = name.ends_with("norm.weight") || name.ends_with("conv.conv.weight");
    weights.remove(vector ? name : name.substr(0, name.size() - std::string(".weight").size()));
    EXPECT_NE(load_error(mlx.config(), weights).find(name), std::string::npos) << name;
  }
  Json config = mlx.config();
  config["conv_L_cache"] = 4;
  EXPECT_NE(load_error(config, mlx.weights()).find("conv.conv"), std::string::npos);
}

/// Some layers have an MLP for all rows.
TEST(LoadingExperts, NotInEveryLayer) {
  const TinyModel moe{.family = "qwen3_moe"}, dense{.family = "qwen3"};
  for (const auto& [key, value] : {std::pair<const char*, Json>("mlp_only_layers", Json::array({0})),
                                   std::pair<const char*, Json>("decoder_sparse_step", 2)}) {
    Json config = moe.config();
    config[key] = value;
    MemoryWeights weights = moe.weights(), plain = dense.weights();
    EXPECT_NE(load_error(config, weights).find("model.layers.0.mlp.gate_proj"), std::string::npos) << key;
    for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string_view(name) == "down_proj";
      const std::string path = cat("model.layers.0.mlp.", name);
      weights.add_matrix(path, plain.matrix(path, down ? 64 : 96, down ? 96 : 64));
      weights.remove(cat("model.layers.0.mlp.switch_mlp.", name));
    }
    weights.remove("model.layers.0.mlp.gate");
    EXPECT_EQ(load_error(config, weights), "") << key;
  }
}

TEST(LoadingLlama, OldBuffersAreIgnoredAndBiasesFollowTheConfig) {
  const TinyModel tiny{.family = "llama"};
  Random random(1);
  MemoryWeights weights = tiny.weights();
  weights.add_vector("model.layers.0.self_attn.rotary_emb.inv_freq", random_dense(random, 1, 8, DType::f32, 1));
  EXPECT_EQ(load_error(tiny.config(), weights), "");
  Json config = tiny.config();
  config["attention_bias"] = true;
  EXPECT_NE(load_error(config, weights).find("q_proj.bias"), std::string::npos);
  config["attention_bias"] = false;
  config["mlp_bias"] = true;
  EXPECT_NE(load_error(config, weights).find("gate_proj.bias"), std::string::npos);
}

/// Without the key, the head is tied exactly when the checkpoint has none.
TEST(LoadingTied, FollowsTheCheckpointWhenTheConfigIsSilent) {
  for (const bool tied : {false, true}) {
    const TinyModel tiny{.family = "llama", .tied = tied};
    Json config = tiny.config();
    config.erase("tie_word_embeddings");
    MemoryWeights weights = tiny.weights();
    nn::Loader load(weights, nullptr);
    EXPECT_EQ(make_model(read_spec(config, "c"), load)->dims().tied_head, tied);
  }
}

TEST(LoadingTied, AnUntiedModelNeedsItsHead) {
  const TinyModel tiny{.family = "llama"};
  MemoryWeights weights = tiny.weights();
  weights.remove("lm_head");
  EXPECT_NE(load_error(tiny.config(), weights).find("lm_head.weight"), std::string::npos);
}

}  // namespace
}  // namespace bumblebee::models
