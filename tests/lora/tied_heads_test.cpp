// Fitting to a base whose head is its embedding: what an adapter of one of the two means is spelled out.
#include "tests/lora/bases.h"

namespace bumblebee::lora {
namespace {

using namespace testing;

Adapter with_embedding(Directory d, bool mlx) {
  if (mlx) {
    d.config["lora_parameters"]["keys"].push_back("model.embed_tokens");
    d.tensors.push_back({"model.embed_tokens.lora_a", {9, 2}, DType::f32, {}});
    d.tensors.push_back({"model.embed_tokens.lora_b", {2, 4}, DType::f32, {}});
  } else {
    d.config["target_modules"].push_back("embed_tokens");
    d.tensors.push_back({kPeft + "model.embed_tokens.lora_embedding_A", {2, 9}, DType::f32, {}});
    d.tensors.push_back({kPeft + "model.embed_tokens.lora_embedding_B", {4, 2}, DType::f32, {}});
  }
  return d.read();
}

TEST(TiedHeads, MlxAdaptsATiedHeadWithItsEmbedding) {
  const Adapter adapter = with_embedding(mlx_directory(), true);
  EXPECT_FALSE(bind_to_base(adapter, base()).modules.contains("lm_head"));
  const BoundAdapter tied = bind_to_base(adapter, base(2, true));
  ASSERT_TRUE(tied.modules.contains("lm_head"));
  const LowRank &table = *tied.modules.at("model.embed_tokens")->low_rank,
                &head = *tied.modules.at("lm_head")->low_rank;
  ASSERT_EQ(head.a.cols, 4);
  ASSERT_EQ(head.b.rows, 9);
  EXPECT_EQ(head.scale, table.scale);
  for (size_t k = 0; k < 2; ++k) {
    for (size_t d = 0; d < 4; ++d) EXPECT_EQ(head.a.values[k * 4 + d], table.b.values[d * 2 + k]);
    for (size_t t = 0; t < 9; ++t) EXPECT_EQ(head.b.values[t * 2 + k], table.a.values[k * 9 + t]);
  }
  Adapter both = adapter;
  both.modules["lm_head"] = *tied.modules.at("lm_head");
  both.targets.reset();
  expect_misfit(both, base(2, true), "expected one of the two, got both");
}

TEST(TiedHeads, PeftLeavesATiedHeadUnlessTheBasesOwnWeightWasSaved) {
  Adapter adapter = with_embedding(peft_directory(), false);
  EXPECT_FALSE(bind_to_base(adapter, base(2, true)).modules.contains("lm_head"));
  ModuleDelta& table = adapter.modules.at("model.embed_tokens");
  table.weight = Matrix{9, 4, std::vector<float>(36, 0.5f)};
  EXPECT_FALSE(bind_to_base(adapter, base(2, true)).modules.contains("lm_head")) << "modules_to_save is a copy";
  table.shared_weight = true;
  const BoundAdapter tied = bind_to_base(adapter, base(2, true));
  EXPECT_EQ(tied.modules.at("lm_head")->weight, table.weight);
  EXPECT_FALSE(tied.modules.at("lm_head")->low_rank);
  EXPECT_FALSE(bind_to_base(adapter, base()).modules.contains("lm_head"));
}

}  // namespace
}  // namespace bumblebee::lora
