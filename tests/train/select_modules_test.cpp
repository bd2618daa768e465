// Layers and keys, as mlx-lm counts and matches them, and what is refused by name.
#include "train/select_modules.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "lora/targets.h"
#include "tests/train/training.h"
#include "train/estimate.h"

namespace bumblebee::train {
namespace {

std::vector<std::string> chosen(const nn::Model& model, const LoraOptions& options) {
  std::vector<std::string> names;
  for (const int site : select_modules(model, options)) names.push_back(model.target_modules()[size_t(site)].name);
  return names;
}

class SelectModules : public testing::Test {
 protected:
  SelectModules() {
    tiny.layers = 3;
    testing_support::MemoryWeights weights = tiny.weights();
    nn::Loader load(weights, nullptr);
    model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
  }

  ErrorCode refusal(const LoraOptions& options, const std::string& names) {
    try {
      select_modules(*model, options);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(names), std::string::npos) << error.what();
      return error.code();
    }
    ADD_FAILURE() << "expected an error about " << names;
    return ErrorCode::device;
  }

  TinyModel tiny;
  std::unique_ptr<nn::Model> model;
};

/// What the estimate of memory sums, by modules: the second half of a gemma4 reads others' keys and is twice as wide.
TEST_F(SelectModules, LayersAreAsWideAsTheirModules) {
  for (const LayerShape& l : layers_of(*model)) {
    EXPECT_EQ(l.q, model->dims().heads * model->dims().head_dim);
    EXPECT_EQ(l.kv, model->dims().kv_heads * model->dims().head_dim);
    EXPECT_EQ(l.wide, model->dims().d_ff);
    EXPECT_EQ(l.aside, 0);
  }
  tiny.family = "gemma4";
  tiny.layers = 4;
  testing_support::MemoryWeights weights = tiny.weights();
  nn::Loader load(weights, nullptr);
  const auto gemma = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
  const std::vector<LayerShape> layers = layers_of(*gemma);
  ASSERT_EQ(layers.size(), 4u);
  for (const nn::TargetModule& module : gemma->target_modules()) {
    const int i = lora::layer_of(module.name);
    if (i < 0) continue;
    const LayerShape& l = layers[size_t(i)];
    if (module.name.ends_with(".q_proj")) {
      EXPECT_EQ(l.q, module.out) << module.name;
    }
    if (module.name.ends_with(".gate_proj")) {
      EXPECT_EQ(l.wide, module.out) << module.name;
    }
    EXPECT_EQ(l.kv > 0, i < 2) << i;
    EXPECT_EQ(l.aside, TinyModel::kAside);
  }
}

TEST_F(SelectModules, ModelsWithoutDerivativesAreRefused) {
  for (const char* family : {"gemma2", "gemma4", "gemma4_moe", "qwen3_5", "qwen3_5_moe", "qwen3_next", "gpt_oss",
                             "phi3", "granite", "smollm3", "lfm2", "olmo3", "ministral3", "glm4"}) {
    tiny.family = family;
    testing_support::MemoryWeights weights = tiny.weights();
    nn::Loader load(weights, nullptr);
    EXPECT_NO_THROW(require_trainable(*models::make_model(models::read_spec(tiny.config(), "tiny"), load))) << family;
  }
  tiny.family = "deepseek_v3";
  testing_support::MemoryWeights weights = tiny.weights();
  nn::Loader load(weights, nullptr);
  const auto latent = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
  try {
    require_trainable(*latent);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("no derivative of attend(latent keys)"), std::string::npos)
        << error.what();
  }
}

TEST_F(SelectModules, RoutersSharedExpertsAndStacks) {
  tiny.family = "qwen2_moe";
  tiny.layers = 1;
  testing_support::MemoryWeights weights = tiny.weights();
  nn::Loader load(weights, nullptr);
  model = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
  EXPECT_NO_THROW(require_trainable(*model));
  const std::string mlp = "model.layers.0.mlp.";
  const std::vector<std::string> all = chosen(*model, {.num_layers = -1});
  EXPECT_EQ(all.size(), 12u);
  for (const char* name : {"gate", "shared_expert_gate", "shared_expert.up_proj", "switch_mlp.gate_proj",
                           "switch_mlp.up_proj", "switch_mlp.down_proj"})
    EXPECT_NE(std::find(all.begin(), all.end(), mlp + name), all.end()) << name;
  EXPECT_EQ(chosen(*model, {.num_layers = -1, .keys = {"mlp.switch_mlp.up_proj"}}),
            std::vector<std::string>{mlp + "switch_mlp.up_proj"});
  EXPECT_EQ(refusal({.type = FineTune::dora, .num_layers = -1}, "DoRA of experts"), ErrorCode::unsupported);
  EXPECT_EQ(chosen(*model, {.type = FineTune::dora, .num_layers = -1, .keys = {"mlp.gate"}}),
            std::vector<std::string>{mlp + "gate"});
  EXPECT_EQ(refusal({.num_layers = -1, .keys = {"mlp.experts.0.up_proj"}}, "mlp.switch_mlp.up_proj"),
            ErrorCode::bad_request);
}

TEST_F(SelectModules, EveryLinearOfTheLastLayers) {
  EXPECT_EQ(chosen(*model, {.num_layers = 1}),
            (std::vector<std::string>{"model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.k_proj",
                                      "model.layers.2.self_attn.v_proj", "model.layers.2.self_attn.o_proj",
                                      "model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj",
                                      "model.layers.2.mlp.down_proj"}));
  EXPECT_EQ(chosen(*model, {.num_layers = -1}).size(), 21u);
  EXPECT_EQ(chosen(*model, {.num_layers = 0}).size(), 21u);
  EXPECT_EQ(chosen(*model, {.num_layers = 3}).size(), 21u);
}

TEST_F(SelectModules, KeysInsideLayersAndWholePaths) {
  EXPECT_EQ(chosen(*model, {.num_layers = 2, .keys = {"self_attn.v_proj", "model.layers.0.mlp.up_proj"}}),
            (std::vector<std::string>{"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj",
                                      "model.layers.2.self_attn.v_proj"}));
}

TEST_F(SelectModules, RefusesByName) {
  EXPECT_EQ(refusal({.num_layers = 4}, "at most 3"), ErrorCode::bad_request);
  EXPECT_EQ(refusal({.num_layers = -2}, "num_layers"), ErrorCode::bad_request);
  EXPECT_EQ(refusal({.num_layers = 1, .keys = {"attn.q_proj"}}, "self_attn.q_proj"), ErrorCode::bad_request);
  EXPECT_EQ(refusal({.num_layers = 1, .keys = {"lm_head"}}, "'lm_head'"), ErrorCode::unsupported);
  EXPECT_EQ(refusal({.num_layers = 1, .keys = {"model.embed_tokens"}}, "'model.embed_tokens'"), ErrorCode::unsupported);
}

}  // namespace
}  // namespace bumblebee::train
