// What the host may know of experts before anybody is routed: how many tiles there can be, where lists lie, and how
// products of a tile's rows are cut. Without a card.
#include "backend/cuda/kernels/expert_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "backend/cuda/kernels/product_plan.h"
#include "tests/support/random.h"

namespace bumblebee::cuda {
namespace {

using testing_support::Random;

/// Tiles of assignments when each row chooses some of the experts from `first` on.
int dealt_tiles(const ExpertShape& shape, int tile_rows, int reach, Random& random) {
  std::vector<int> counts(size_t(shape.experts), 0);
  for (int row = 0; row < shape.rows; ++row) {
    const std::vector<int32_t> order = random.permutation(std::max(reach, shape.top_k));
    for (int j = 0; j < shape.top_k; ++j) ++counts[size_t(order[size_t(j)])];
  }
  int tiles = 0;
  for (const int count : counts) tiles += (count + tile_rows - 1) / tile_rows;
  return tiles;
}

const ExpertShape kShapes[] = {{1, 1, 1},    {1, 8, 128},   {2, 8, 128},    {8, 8, 128}, {9, 8, 128}, {32, 8, 128},
                               {33, 8, 128}, {512, 8, 128}, {700, 2, 2},    {32, 2, 8},  {5, 3, 3},   {64, 1, 6},
                               {17, 2, 4},   {100, 4, 60},  {2048, 8, 128}, {3, 6, 384}};

TEST(ExpertPlan, NoRoutingNeedsMoreTilesThanThereArePlacesFor) {
  Random random(3);
  for (const ExpertShape& shape : kShapes) {
    for (const int tile_rows : {1, few_tile_rows(shape), kWideTileRows}) {
      int most = 0;
      for (const int reach : {shape.top_k, shape.experts / 2, shape.experts})
        for (int i = 0; i < 4; ++i)
          most = std::max(most, dealt_tiles(shape, tile_rows, std::min(reach, shape.experts), random));
      EXPECT_LE(most, most_tiles(shape, tile_rows))
          << shape.rows << " rows, " << shape.top_k << " of " << shape.experts;
    }
    EXPECT_EQ(most_tiles(shape, 1), shape.assignments());
  }
  // All experts but one have a single row: that is the most.
  EXPECT_EQ(most_tiles({64, 1, 6}, 4), 5 + (59 + 3) / 4);
}

TEST(ExpertPlan, ListsFollowEachOtherAtMultiplesOfSixteen) {
  for (const ExpertShape& shape : kShapes) {
    const ExpertPlaces at = expert_places(shape);
    const size_t list = size_t(shape.assignments()) * sizeof(int32_t);
    EXPECT_GE(at.row_of, list);
    EXPECT_GE(at.counts, at.row_of + list);
    EXPECT_GE(at.few, at.counts + 2 * sizeof(int32_t));
    EXPECT_EQ(at.wide - at.few, size_t(most_tiles(shape, few_tile_rows(shape))) * sizeof(ExpertTile));
    EXPECT_EQ(at.end - at.wide, size_t(most_tiles(shape, kWideTileRows)) * sizeof(ExpertTile));
    for (const size_t place : {at.row_of, at.counts, at.few, at.wide}) EXPECT_EQ(place % 16, 0u);
  }
}

TEST(ExpertPlan, RowsThatHardlyMeetAreTilesOfTheirOwn) {
  EXPECT_EQ(few_tile_rows({1, 2, 2}), 1) << "a row never meets itself";
  EXPECT_EQ(few_tile_rows({8, 8, 128}), 1);
  EXPECT_EQ(few_tile_rows({9, 8, 128}), kFewTileRows);
  EXPECT_EQ(few_tile_rows({2, 2, 8}), 1);
  EXPECT_EQ(few_tile_rows({3, 2, 8}), kFewTileRows);
}

const ProductCard kExpertCard = ProductCard::of(132, 233472, 1024, 232448, true);

ProductStage stage_with_experts(const ExpertShape& shape, int in, int out) {
  ProductStage s;
  s.in = in, s.terms = 1, s.term[0].out = out;
  s.rows = s.at_once = few_tile_rows(shape);
  s.experts.slots = most_tiles(shape, s.rows);
  s.experts.experts = shape.experts;
  return s;
}

TEST(ExpertPlan, EveryTileHasBlocksAndEveryBlockATile) {
  for (const ExpertShape& shape : kShapes) {
    if (shape.rows > kStageRows) continue;
    for (const int in : {768, 2048, 4096}) {
      const ProductStage stage = stage_with_experts(shape, in, 1536);
      ProductArgs a = {};
      plan_product(stage, stage.rows, kExpertCard, a);
      const int blocks = product_blocks(a, kExpertCard), each = blocks / stage.experts.slots;
      EXPECT_EQ(blocks % stage.experts.slots, 0);
      EXPECT_GE(each, 1);
      EXPECT_LE(each, a.units);
      EXPECT_EQ(a.parts, 1);
    }
  }
  // One row: a card's blocks, dealt evenly to eight experts.
  ProductArgs a = {};
  plan_product(stage_with_experts({1, 8, 128}, 2048, 768), 1, kExpertCard, a);
  EXPECT_EQ(product_blocks(a, kExpertCard), 128);
}

/// Published shapes; and one whose x does not lie in a block.
TEST(ExpertPlan, WhetherAStageFitsDependsOnTheFormatAlone) {
  for (const int in : {768, 1408, 2048, 4096, 14336}) {
    for (const ExpertShape& shape : kShapes)
      EXPECT_TRUE(fits_experts(stage_with_experts(shape, in / 64 * 64, 512), kExpertCard))
          << in << ", " << shape.rows << " rows";
  }
  for (const ExpertShape& shape : kShapes)
    EXPECT_FALSE(fits_experts(stage_with_experts(shape, 32768, 512), kExpertCard));
}

/// 12 groups in a row are 24 bytes, where no tensor copy may begin.
TEST(ExpertPlan, RowsOfScalesThatBeginAtMultiplesOfSixteenBytesAreTensorCopies) {
  ProductStage stage = stage_with_experts({1, 8, 128}, 768, 2048);
  ProductArgs a = {};
  plan_product(stage, 1, kExpertCard, a);
  EXPECT_FALSE(a.boxes);
  stage.scale_row = 16;
  plan_product(stage, 1, kExpertCard, a);
  EXPECT_TRUE(a.boxes);
  EXPECT_EQ(a.scale_row_bytes, 32);
}

TEST(ExpertPlan, DigitsOfATileAreABlockOfTheirOwn) {
  const ProductStage stage = stage_with_experts({32, 8, 128}, 2048, 768);
  EXPECT_EQ(expert_digit_bytes(stage.experts, 2048), size_t(stage.experts.slots) * 2048 * 2 * kFewTileRows);
  EXPECT_EQ(expert_step_bytes(stage.experts, 2048),
            size_t(stage.experts.slots) * (2048 / 64) * kFewTileRows * sizeof(StepGroup));
}

}  // namespace
}  // namespace bumblebee::cuda
