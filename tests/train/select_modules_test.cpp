// Layers and keys, as mlx-lm counts and matches them, and what is refused by name.
#include "train/select_modules.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/train/training.h"

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

TEST_F(SelectModules, ModelsWithoutDerivativesAreRefused) {
  EXPECT_NO_THROW(require_trainable(*model));
  for (const auto& [family, operation] : {std::pair{"mixtral", "matmul_experts"},
                                          {"qwen2_moe", "matmul_experts"},
                                          {"qwen3_moe", "matmul_experts"},
                                          {"gemma2", "soft_cap"},
                                          {"gemma4", "attend(layers that differ)"}}) {
    tiny.family = family;
    testing_support::MemoryWeights weights = tiny.weights();
    nn::Loader load(weights, nullptr);
    const auto moe = models::make_model(models::read_spec(tiny.config(), "tiny"), load);
    try {
      require_trainable(*moe);
      ADD_FAILURE() << family;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(error.what()).find(cat("no derivative of ", operation)), std::string::npos) << error.what();
    }
  }
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
