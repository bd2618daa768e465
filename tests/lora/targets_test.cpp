// Which modules a config means, by the two projects' own rules.
#include "lora/targets.h"

#include <gtest/gtest.h>

namespace bumblebee::lora {
namespace {

TEST(Targets, FindTheLayerOfAPath) {
  EXPECT_EQ(layer_of("model.layers.12.self_attn.q_proj"), 12);
  EXPECT_EQ(layer_of("lm_head"), -1);
  EXPECT_EQ(layer_of("layers.x.q"), -1);
  EXPECT_EQ(layer_of(""), -1);
  EXPECT_EQ(layer_of("model.layers.99999999999.q"), -1);
  EXPECT_EQ(inside_layer("model.layers.12.self_attn.q_proj"), "self_attn.q_proj");
  EXPECT_EQ(inside_layer("model.layers.12"), "model.layers.12");
  EXPECT_EQ(inside_layer("lm_head"), "lm_head");
}

TEST(Targets, MlxCountsFromTheLastLayer) {
  const Targets targets = Targets::mlx({"self_attn.q_proj", "lm_head"}, 2);
  EXPECT_TRUE(targets.covers("model.layers.3.self_attn.q_proj", 4));
  EXPECT_TRUE(targets.covers("model.layers.2.self_attn.q_proj", 4));
  EXPECT_FALSE(targets.covers("model.layers.1.self_attn.q_proj", 4));
  EXPECT_TRUE(targets.covers("model.layers.1.self_attn.q_proj", 0)) << "the number of layers is not known";
  EXPECT_FALSE(targets.covers("model.layers.3.self_attn.k_proj", 4));
  EXPECT_TRUE(targets.covers("lm_head", 4));
  EXPECT_TRUE(Targets::mlx({"self_attn.q_proj"}, 0).covers("model.layers.0.self_attn.q_proj", 4));
}

TEST(Targets, PeftNamesAreWholePathsOrEndings) {
  const Targets targets = Targets::peft({.names = {"q_proj", "model.layers.1.mlp.up_proj"}});
  EXPECT_TRUE(targets.covers("model.layers.0.self_attn.q_proj", 2));
  EXPECT_FALSE(targets.covers("model.layers.0.self_attn.xq_proj", 2));
  EXPECT_TRUE(targets.covers("model.layers.1.mlp.up_proj", 2));
  EXPECT_FALSE(targets.covers("model.layers.0.mlp.up_proj", 2));
}

TEST(Targets, PeftLayersApplyToEndingsOnly) {
  const Targets any = Targets::peft({.names = {"q_proj", "lm_head"}, .layers = std::vector<int>{1}});
  EXPECT_FALSE(any.covers("model.layers.0.self_attn.q_proj", 0));
  EXPECT_TRUE(any.covers("model.layers.1.self_attn.q_proj", 0));
  EXPECT_FALSE(any.covers("model.layers.11.self_attn.q_proj", 0));
  EXPECT_TRUE(any.covers("lm_head", 0)) << "a whole path";
  EXPECT_FALSE(any.covers("model.lm_head", 0)) << "an ending without a layer";
  const Targets named =
      Targets::peft({.names = {"q_proj"}, .layers = std::vector<int>{1}, .layer_patterns = {"h", "layers"}});
  EXPECT_TRUE(named.covers("model.layers.1.q_proj", 0));
  EXPECT_FALSE(named.covers("model.blocks.1.q_proj", 0));
}

TEST(Targets, PeftExclusionsComeFirst) {
  const Targets names = Targets::peft({.names = {"q_proj"}, .excluded = {"layers.0.self_attn.q_proj"}});
  EXPECT_FALSE(names.covers("model.layers.0.self_attn.q_proj", 0));
  EXPECT_TRUE(names.covers("model.layers.1.self_attn.q_proj", 0));
  Targets::Peft peft;
  peft.all_linear = true;
  peft.excluded_pattern = Pattern(".*\\.0\\..*", "c");
  const Targets all = Targets::peft(std::move(peft));
  EXPECT_FALSE(all.covers("model.layers.0.self_attn.q_proj", 0));
  EXPECT_TRUE(all.covers("model.layers.1.self_attn.q_proj", 0));
  EXPECT_FALSE(all.covers("lm_head", 0)) << "the output layer is not in all-linear";
  EXPECT_FALSE(all.covers("model.embed_tokens", 0, true));
}

}  // namespace
}  // namespace bumblebee::lora
