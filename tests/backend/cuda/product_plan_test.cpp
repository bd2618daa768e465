// How products of few rows are cut, for cards that are described and not there.
#include "backend/cuda/kernels/product_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace bumblebee::cuda {
namespace {

const ProductCard kH100 = ProductCard::of(132, 233472, 1024, 232448, true),
                  kA100 = ProductCard::of(108, 167936, 1024, 166912, false),
                  kRtx30 = ProductCard::of(28, 102400, 1024, 101376, false);

ProductStage stage_of(std::vector<int> outs, int in, int bits = 4, int group = 64, ScaleType scale = ScaleType::bf16) {
  ProductStage s;
  for (const int out : outs) s.term[s.terms++].out = out;
  s.in = in, s.rows = 1, s.bits = bits, s.group = group, s.scale = scale;
  return s;
}
ProductStage pair_of(int out, int in) {
  ProductStage s = stage_of({out, out}, in);
  s.epilogue = ProductStage::Epilogue::silu_mul;
  return s;
}

struct Planned {
  ProductArgs a = {};
  SharedPlan plan;
};
Planned planned(const ProductStage& stage, int rows = 1, const ProductCard& card = kH100) {
  Planned p;
  p.plan = plan_product(stage, rows, card, p.a);
  return p;
}

/// f(card, stage, name) for formats, lengths and cards that have anything of their own.
template <class F>
void for_each_stage(const F& f) {
  for (const ProductCard& card : {kH100, kA100, kRtx30})
    for (const int bits : {2, 3, 4, 5, 6, 8})
      for (const int group : {32, 64, 128})
        for (const ScaleType scale : {ScaleType::bf16, ScaleType::f32})
          for (const int in : {128, 256, 384, 896, 1024, 2048, 2176, 4096, 6144, 12288, 14336, 28672}) {
            const ProductStage stage = stage_of({520, 24}, in, bits, group, scale);
            f(card, stage,
              std::to_string(bits) + " bits, groups of " + std::to_string(group) + ", in " + std::to_string(in) +
                  (scale == ScaleType::f32 ? ", f32" : "") + ", processors " + std::to_string(card.processors));
          }
}

TEST(ProductPlan, PartsOfSharedMemoryFollowEachOtherAndFit) {
  for_each_stage([](const ProductCard& card, const ProductStage& stage, const std::string& name) {
    const int most = rows_at_once(stage, card);
    for (int rows = 1; rows <= most; ++rows) {
      const auto [a, plan] = planned(stage, rows, card);
      int blocks = 0;
      for (int part = 0; part < a.parts; ++part) blocks = std::max(blocks, blocks_of_part(a, part));
      EXPECT_EQ(a.slot_bytes % kHalfColumn, 0) << name << ": tensor copies swizzle by address";
      EXPECT_GE(a.slot_bytes, a.slab_bytes) << name;
      EXPECT_GE(plan.digits, a.depth * a.slot_bytes) << name;
      EXPECT_GE(plan.steps - plan.digits, blocks * 32 * a.columns) << name;
      EXPECT_GE(plan.partials - plan.steps, blocks / 2 * (a.columns / 2) * int(sizeof(StepGroup))) << name;
      EXPECT_GE(plan.lora - plan.partials, a.buffers * kConsumers * tiles_of(a.virtual_rows) * 64 * 4) << name;
      EXPECT_GE(plan.lora - plan.partials, kConsumers * int(sizeof(float))) << name << ": scratch of norms";
      EXPECT_EQ(plan.total - plan.gates, int(sizeof(Gates))) << name;
      for (const int at : {plan.digits, plan.steps, plan.partials, plan.lora, plan.gates})
        EXPECT_EQ(at % 16, 0) << name;
      EXPECT_LE(plan.total, card.alone) << name << ", rows " << rows;
      EXPECT_GE(a.depth, kLeastDepth) << name;
      EXPECT_LE(a.depth, kMostDepth) << name;
      EXPECT_GE(a.asked_at_once, 1) << name << ": what is waited for has been asked for";
      EXPECT_TRUE(a.buffers == 1 || a.buffers == 2) << name;
    }
    EXPECT_TRUE(most > 0 || card.alone < 1 << 17 || stage.in > 12288) << name << " fits on no large card";
  });
}

TEST(ProductPlan, PartsCoverTheSlabsInOrder) {
  for_each_stage([](const ProductCard& card, const ProductStage& stage, const std::string& name) {
    for (int rows = 1; rows <= rows_at_once(stage, card); rows *= 2) {
      const ProductArgs a = planned(stage, rows, card).a;
      EXPECT_EQ(slab_begin(a, 0), 0) << name;
      EXPECT_EQ(slab_begin(a, a.parts), a.slabs) << name;
      for (int part = 0; part < a.parts; ++part) {
        EXPECT_LT(slab_begin(a, part), slab_begin(a, part + 1)) << name;
        EXPECT_EQ(slab_begin(a, part) % kSectionSlabs, 0) << name << ": sections are summed whole";
      }
      const int blocks = product_blocks(a, card);
      EXPECT_LE(blocks, card.processors) << name << ": all are there at once";
      EXPECT_EQ(blocks % a.parts, 0) << name;
      EXPECT_GT(blocks, 0) << name;
    }
  });
}

TEST(ProductPlan, ASlabHasAPlaceForEveryByte) {
  for_each_stage([](const ProductCard& card, const ProductStage& stage, const std::string& name) {
    const ProductArgs a = planned(stage, 1, card).a;
    const int halves = 2 * kConsumers / a.width;
    std::set<uint32_t> places;
    for (uint32_t row = 0; row < 8; ++row)
      for (uint32_t byte = 0; byte < uint32_t(a.slab_codes); ++byte) {
        EXPECT_LT(slab_offset(row, byte), uint32_t(a.half_bytes)) << name;
        places.insert(slab_offset(row, byte));
      }
    EXPECT_EQ(places.size(), size_t(8 * a.slab_codes)) << name;
    EXPECT_EQ(a.scales_at, halves * a.half_bytes) << name;
    EXPECT_EQ(a.plane, halves * 8 * a.slab_scales) << name;
    EXPECT_EQ(a.slab_bytes, a.scales_at + 2 * a.plane) << name;
    EXPECT_EQ(a.slab_codes * 8, a.width * kStageInputs * stage.bits) << name;
    EXPECT_EQ(a.slab_scales, a.width * kStageInputs / stage.group * (stage.scale == ScaleType::f32 ? 4 : 2)) << name;
    EXPECT_EQ(a.scale_row_bytes % a.scale_copy, 0) << name;
    EXPECT_EQ(a.slab_scales % a.scale_copy, 0) << name;
    EXPECT_EQ(a.slab_scales / a.scale_copy, 1 << a.row_copies_bits) << name;
    EXPECT_EQ(a.row_bytes % a.code_copy, 0) << name;
  });
}

TEST(ProductPlan, TensorCopiesAreWhatTheDriverTakes) {
  int boxes = 0;
  for_each_stage([&](const ProductCard& card, const ProductStage& stage, const std::string& name) {
    const ProductArgs a = planned(stage, 1, card).a;
    EXPECT_TRUE(card.boxes || !a.boxes) << name;
    if (!a.boxes) return;
    ++boxes;
    EXPECT_EQ(a.row_bytes % kColumnBytes, 0) << name;
    EXPECT_EQ(a.half_bytes / kHalfColumn * kColumnBytes, a.slab_codes) << name << ": whole columns";
    EXPECT_LE(a.half_bytes / kHalfColumn, 256) << name;
    EXPECT_EQ(a.slab_scales % 16, 0) << name;
    EXPECT_LE(a.slab_scales, 256) << name;
    EXPECT_EQ(a.scale_row_bytes % 16, 0) << name;
    EXPECT_LT(a.slab_bytes, 1 << 20) << name << ": what a gate counts";
  });
  EXPECT_GT(boxes, 100);
}

TEST(ProductPlan, OneRowOfQwen3LeavesRoomForTheNextKernel) {
  struct Case {
    ProductStage stage;
    int blocks, depth;
  };
  const Case cases[] = {{stage_of({4096, 1024, 1024}, 4096), 132, 5},
                        {stage_of({4096}, 4096), 132, 5},
                        {pair_of(12288, 4096), 132, 5},
                        {stage_of({4096}, 12288), 132, 4},
                        {stage_of({151936}, 4096), 132, 5}};
  for (const Case& c : cases) {
    const auto [a, plan] = planned(c.stage);
    EXPECT_EQ(a.slot_bytes, 18432);
    EXPECT_EQ(a.parts, 1);
    EXPECT_EQ(a.buffers, 2);
    EXPECT_EQ(a.depth, c.depth);
    EXPECT_EQ(a.asked_at_once, kAskedAtOnce);
    EXPECT_EQ(product_blocks(a, kH100), c.blocks);
    EXPECT_LE(plan.total, kH100.beside);
  }
  // Two such blocks, and one that keeps its like away, share a multiprocessor of 228 KiB.
  EXPECT_LE(2 * (kH100.beside + 1024), 233472);
  EXPECT_LE(kH100.beside + kH100.apart + 2 * 1024, 233472);
  EXPECT_GT(2 * (kH100.apart + 1024), 233472);
}

TEST(ProductPlan, RowsAtOnceOfQwen3) {
  for (const int in : {1024, 2048, 4096, 12288}) EXPECT_EQ(rows_at_once(stage_of({4096}, in), kH100), 16) << in;
  ProductStage exact = stage_of({4096}, 4096);
  exact.exact = true;
  EXPECT_EQ(rows_at_once(exact, kH100), 8);
  EXPECT_EQ(planned(stage_of({4096}, 4096), 16).a.parts, 1);
  EXPECT_EQ(planned(stage_of({4096}, 12288), 16).a.parts, 3) << "a section of x is all that fits";
  EXPECT_EQ(stage_workspace(stage_of({4096}, 12288), kH100), 0u);
}

ProductStage with_ranks(ProductStage stage, int ranks) {
  stage.lora.ranks = ranks;
  return stage;
}

TEST(ProductPlan, AdaptersOfOneRowShareTheBlock) {
  const ProductStage stages[] = {stage_of({4096, 1024, 1024}, 4096), stage_of({4096}, 4096), pair_of(12288, 4096),
                                 stage_of({4096}, 12288)};
  for (const ProductStage& stage : stages) {
    for (const int ranks : {8, 16, 24, 32, 40}) {
      const ProductStage s = with_ranks(stage, ranks);
      ASSERT_TRUE(fits_lora(s, kH100)) << s.in << ", ranks " << ranks;
      const auto [a, plan] = planned(s);
      const int blocks = product_blocks(a, kH100);
      EXPECT_EQ(a.items, s.terms * ranks * ((s.in + 1023) / 1024));
      EXPECT_GE(a.held * blocks, a.items) << "every piece has a block";
      EXPECT_LT((a.held - 1) * blocks, a.items);
      EXPECT_GE(plan.gates - plan.lora, int(sizeof(LoraShared)) + a.held * kPieceInputs * 6 + kTilesAhead * 512 +
                                            s.terms * ranks * int(sizeof(float)));
      EXPECT_EQ(plan.gates % 16, 0);
      EXPECT_EQ(a.depth, planned(stage).a.depth) << "as many slabs as without";
      EXPECT_LE(s.terms * ranks * part_stride(a.pieces), kLoraParts);
    }
    EXPECT_EQ(planned(stage).plan.gates, planned(stage).plan.lora) << "nothing without adapters";
  }
  EXPECT_FALSE(fits_lora(with_ranks(stages[0], 48), kH100)) << "five pieces a block";
  EXPECT_FALSE(fits_lora(with_ranks(stages[0], 12), kH100)) << "no octets";
  ProductStage two = with_ranks(stages[0], 16);
  two.rows = 2;
  EXPECT_FALSE(fits_lora(two, kH100));
}

TEST(ProductPlan, DigitsOfRowsAreThoseOfTheirLaunches) {
  EXPECT_EQ(digit_bytes(1, 4096, false, 16), size_t{4096 * 2});
  EXPECT_EQ(digit_bytes(3, 4096, false, 16), size_t{3 * 4096 * 2});
  EXPECT_EQ(digit_bytes(5, 4096, false, 16), size_t{8 * 4096 * 2}) << "padded";
  EXPECT_EQ(digit_bytes(20, 4096, false, 16), size_t{(16 + 4) * 4096 * 2});
  EXPECT_EQ(digit_bytes(2, 4096, true, 8), size_t{4 * 4096 * 2}) << "four digits";
  EXPECT_EQ(digit_bytes(1, 100, false, 16), size_t{256 * 2}) << "whole stages";
  EXPECT_EQ(step_bytes(3, 4096, false, 16), 3 * 4096 / 64 * sizeof(StepGroup));
}

/// Products of Qwen3-8B's layer, in the order in which a chain has them.
std::vector<ProductStage> links_of_a_layer() {
  return {stage_of({4096}, 4096), pair_of(12288, 4096), stage_of({4096}, 12288), stage_of({4096, 1024, 1024}, 4096)};
}

/// For a block of attention, on a card with 228 KB for a multiprocessor.
bool leaves_room(const ChainShared& s) {
  const auto taken = [](int bytes) { return (bytes + 1024 + 127) / 128 * 128; };  // by a block
  return taken(s.total) + taken(kBesideChain) <= 233472;
}

TEST(ProductPlan, LinksOfAChainShareABlock) {
  std::vector<ProductArgs> args(4);
  std::vector<const ProductArgs*> links;
  const std::vector<ProductStage> stages = links_of_a_layer();
  for (size_t i = 0; i < stages.size(); ++i) {
    ASSERT_TRUE(plan_link(stages[i], kH100, args[i])) << i;
    EXPECT_EQ(args[i].slot_bytes, args[0].slot_bytes);
    links.push_back(&args[i]);
  }
  const ChainShared s = plan_chain(links, kH100);
  EXPECT_EQ(s.depth, kChainDepth);
  EXPECT_EQ(s.digits, s.depth * args[0].slot_bytes);
  EXPECT_EQ(s.steps - s.digits, 12288 * 2);
  EXPECT_EQ(s.partials - s.steps, 12288 / 64 * 16);
  EXPECT_GE(s.total, s.gates + int(sizeof(ChainGates)));
  EXPECT_TRUE(leaves_room(s));
}

/// Attention finds room beside a chain that applies adapters too, of whatever rank a chain may have.
TEST(ProductPlan, LinksWithAdaptersShareABlock) {
  std::vector<ProductArgs> args(4);
  std::vector<const ProductArgs*> links;
  for (size_t i = 0; i < args.size(); ++i) {
    ASSERT_TRUE(plan_link(with_ranks(links_of_a_layer()[i], 40), kH100, args[i])) << i;
    links.push_back(&args[i]);
  }
  EXPECT_TRUE(leaves_room(plan_chain(links, kH100)));
  for (size_t i = 0; i < args.size(); ++i)
    ASSERT_TRUE(plan_link(with_ranks(links_of_a_layer()[i], 16), kH100, args[i])) << i;
  const ChainShared s = plan_chain(links, kH100);
  EXPECT_EQ(s.depth, kChainDepth);
  EXPECT_EQ(s.lora % 16, 0);
  EXPECT_EQ(s.gates - s.lora, chain_lora_bytes(48));
  EXPECT_GE(s.total, s.gates + int(sizeof(ChainGates)));
  EXPECT_TRUE(leaves_room(s));
  // Runs of A: more than the warps of all blocks have.
  ProductArgs a = {};
  EXPECT_FALSE(plan_link(with_ranks(stage_of({4096, 1024, 1024}, 4096), 48), kH100, a));
  EXPECT_FALSE(plan_link(with_ranks(stage_of({256}, 4096), 24), kH100, a)) << "16 blocks";
}

/// Qwen3-14B's with adapters of rank 16 on a card with 99 KB for a block: one link has the longest x, another the most
/// ranks.
TEST(ProductPlan, LinksThatFitMayNotFitTogether) {
  const ProductCard small = ProductCard::of(170, 102400, 1024, 101376, true);
  const ProductStage stages[] = {with_ranks(stage_of({5120}, 5120), 16), with_ranks(pair_of(17408, 5120), 16),
                                 stage_of({5120}, 17408)};  // its adapters alone fit no block
  std::vector<ProductArgs> args(3);
  std::vector<const ProductArgs*> links;
  for (size_t i = 0; i < args.size(); ++i) {
    ASSERT_TRUE(plan_link(stages[i], small, args[i])) << i;
    links.push_back(&args[i]);
    EXPECT_EQ(plan_chain(links, small).total <= small.alone, i < 2) << i;
  }
}

TEST(ProductPlan, WhatIsNoLink) {
  const auto is_link = [](const ProductStage& stage, const ProductCard& card = kH100) {
    ProductArgs a = {};
    return plan_link(stage, card, a);
  };
  const auto changed = [](const auto& change) {
    ProductStage s = stage_of({4096}, 4096);
    change(s);
    return s;
  };
  EXPECT_TRUE(is_link(stage_of({4096}, 4096)));
  EXPECT_TRUE(is_link(stage_of({4096}, 4096, 4, 64, ScaleType::f16)));
  EXPECT_TRUE(is_link(stage_of({5120}, 25600)));
  EXPECT_FALSE(is_link(stage_of({4096}, 4096), kA100));  // no tensor copies
  EXPECT_FALSE(is_link(stage_of({4096}, 1024)));         // four classes
  EXPECT_FALSE(is_link(stage_of({4096}, 4096, 8)));
  EXPECT_FALSE(is_link(stage_of({4096}, 4096, 4, 32)));
  EXPECT_FALSE(is_link(stage_of({4096}, 4096, 4, 64, ScaleType::f32)));
  EXPECT_FALSE(is_link(changed([](ProductStage& s) { s.rows = 2; })));
  EXPECT_FALSE(is_link(changed([](ProductStage& s) { s.exact = true; })));
  EXPECT_FALSE(is_link(changed([](ProductStage& s) { s.lora.ranks = 12; })));  // no octets
  EXPECT_FALSE(is_link(changed([](ProductStage& s) { s.experts.slots = 8; })));
  EXPECT_FALSE(is_link(changed([](ProductStage& s) { s.input.kind = StageInput::Kind::digits; })));
}

/// Every unit of every link is some block's, and no block has two more than another over all of them.
TEST(ProductPlan, LinksDealTheirUnitsInTurn) {
  constexpr int kBlocks = 132;
  LinkShifts shifts(kBlocks);
  std::vector<int> sum(kBlocks);
  for (const int units : {256, 1536, 256, 384, 9496, 1, 132}) {
    const int shift = shifts.next(units);
    std::set<int> seen;
    for (int block = 0; block < kBlocks; ++block)
      for (int unit = (block + shift) % kBlocks; unit < units; unit += kBlocks) {
        EXPECT_TRUE(seen.insert(unit).second);
        ++sum[size_t(block)];
      }
    EXPECT_EQ(seen.size(), size_t(units));
    const auto [least, most] = std::minmax_element(sum.begin(), sum.end());
    EXPECT_LE(*most - *least, 1);
  }
}

}  // namespace
}  // namespace bumblebee::cuda
