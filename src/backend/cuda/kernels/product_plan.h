// How a product of few rows is cut: into slabs, tiles and parts, and a block's shared memory into what lies there.
// Plain functions of a stage and a card, tested without one.
#pragma once

#include <span>

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product_stage.h"

namespace bumblebee::cuda {

/// What a plan wants to know of a card: bytes of shared memory of one block.
struct ProductCard {
  static constexpr int kMargin = 256;
  int processors = 0;
  int beside = 0;      // two blocks of so much share a multiprocessor
  int apart = 0;       // leaves room for one of `beside`, not for another like itself
  int alone = 0;       // the most there is
  bool boxes = false;  // tensor copies exist

  /// `of_processor`: bytes of a multiprocessor, of which each block takes `reserved` beside its own.
  static ProductCard of(int processors, int of_processor, int reserved, int alone, bool boxes) {
    const int half = of_processor / 2 - reserved;
    return {processors, half - kMargin, half + kMargin, alone, boxes};
  }
};

/// Slabs of a ring, and its bytes where a block shares its multiprocessor: with less the copies are too few, and three
/// slabs of four bits stream slower than six do alone.
inline constexpr int kLeastDepth = 2, kEnoughDepth = 3, kMostDepth = 8, kEnoughBytes = 1 << 16;

/// Slabs that a block of one row has asked for and not got yet while its ring fills for the first time: as many as keep
/// memory busy. x and instructions, which it waits for meanwhile, come behind all that blocks have asked for.
inline constexpr int kAskedAtOnce = 2;

/// The most pieces of A that a block holds.
inline constexpr int kMostHeld = 4;

/// A stage as the kernel takes it: what the host can work out once.
struct ProductArgs {
  StageWeight term[kStageTerms];
  int32_t first_tile[kStageTerms + 1];
  int32_t in, rows;      // rows as stored; `columns` counts digits
  int32_t virtual_rows;  // rows, twice that in exact precision
  int32_t columns;       // of digits that are kept, 2·(virtual rows, padded where there are many)
  int32_t row_bytes, scale_row_bytes, group;
  ScaleType scale;
  int32_t boxes;                    // tensor copies; else asynchronous copies of 16 or 4 bytes
  int32_t code_copy;                // bytes of such a copy of codes
  int32_t scale_copy;               // bytes of an asynchronous copy of scales, 2: element by element
  int32_t row_copies_bits;          // logarithm of the number of those of a row in a slab
  int32_t stage_scales;             // bytes of a row's scales in a stage
  int32_t slab_codes, slab_scales;  // bytes of a row in a slab
  int32_t half_bytes;               // codes of half a tile in a slab
  int32_t scales_at, plane;         // in a slot: the first scale, and bytes from there to the first bias
  int32_t slab_bytes, slot_bytes, depth;
  int32_t asked_at_once;              // slabs of the first `depth`; tensor copies only
  int32_t buffers;                    // of partial sums
  int32_t stages, width, width_bits;  // width: classes_of(in), the warps to a tile
  int32_t slabs, sections, parts;     // parts: blocks that share a tile
  int32_t tiles, units;               // a unit: the tiles that a block's warps work on at a time
  int32_t exact;
  ProductStage::Epilogue epilogue;
  const float* residual;
  StageInput input;
  StageLora lora;
  StageExperts experts;
  int32_t terms, pieces, items, held;  // of adapters: pieces of x, pieces of all ranks, and of these in a block
  float* partials;
  uint32_t* arrived;
};

inline constexpr int kConsumerBits = 3;
static_assert(1 << kConsumerBits == kConsumers);
/// Tiles whose rows of B are asked for before they are wanted, since memory has the weights in a ring to bring first;
/// and those for which is known what adapters add before it is wanted.
inline constexpr int kTilesAhead = 8, kChangesAhead = 4;

/// Of adapters, in shared memory.
struct alignas(16) LoraShared {
  LoraTerm term[kStageTerms];
  int32_t place[kMostHeld], piece[kMostHeld];  // rank of all terms, and piece of x, of what the block has; -1: nothing
  int32_t slot[kMostHeld];                     // which of the pieces of x that the block keeps
  int8_t slot_of[32];                          // the same by piece
  uint32_t pieces;                             // bit p: piece p of x is kept
  int32_t some;                                // the slot adds anything
  uint64_t kept[kMostHeld];                    // gates: a piece of x is there
  uint64_t formed[kChangesAhead], added[kChangesAhead];
  float change[kChangesAhead][kTileRows];
};
/// After it: x [held, kPieceInputs] f32 and A [held, kPieceInputs] bf16, of B an octet a lane for each tile ahead, then
/// u [terms, ranks] f32.
BB_BOTH int lora_shared_bytes(int held, int places) {
  return int(sizeof(LoraShared)) + held * kPieceInputs * 6 + kTilesAhead * 512 + places * 4;
}
/// In StageLora::parts, floats from a rank to the next.
BB_BOTH int part_stride(int pieces) { return (pieces + 3) / 4 * 4; }

/// Offsets in dynamic shared memory.
struct SharedPlan {
  int digits, steps, partials, lora, gates, total;  // the ring comes first
};
/// Gates of a slot's bytes and of its emptiness, and of x.
struct Gates {
  uint64_t full[kMostDepth], empty[kMostDepth], input;
};

BB_BOTH int section_begin(const ProductArgs& a, int part) { return part * a.sections / a.parts; }
BB_BOTH int slab_begin(const ProductArgs& a, int part) {
  const int slab = section_begin(a, part) * kSectionSlabs;
  return slab < a.slabs ? slab : a.slabs;
}
/// Blocks of 32 inputs, whole slabs of them.
BB_BOTH int blocks_of_part(const ProductArgs& a, int part) {
  return (slab_begin(a, part + 1) - slab_begin(a, part)) * a.width * (kStageInputs / 32);
}

/// Cuts `rows` rows of a stage, and fills everything but `arrived` and `partials`.
SharedPlan plan_product(const ProductStage& stage, int rows, const ProductCard& card, ProductArgs& a);
/// Whether two blocks of a stage of experts share a multiprocessor: of many tiles some are not there, and blocks of
/// short rows have more to start and to finish than to multiply.
bool shares_processors(const StageExperts& experts, int rows, int in);
/// Blocks of the grid: one a multiprocessor at most, so that those that wait for each other are all there.
int product_blocks(const ProductArgs& a, const ProductCard& card);
/// Tiles of four rows of digits.
int tiles_of(int virtual_rows);
/// Rows of digits that are kept.
int padded_rows(int virtual_rows);
/// What product.h says of a stage, on this card.
int rows_at_once(const ProductStage& stage, const ProductCard& card);
bool fits_lora(const ProductStage& stage, const ProductCard& card);
bool fits_experts(const ProductStage& stage, const ProductCard& card);
size_t stage_workspace(const ProductStage& stage, const ProductCard& card);

/// The most slabs of a chain's ring (product_chain.h): with them a block of attention finds room beside it.
inline constexpr int kChainDepth = 10;
/// Shared memory of that block at most.
inline constexpr int kBesideChain = 10400;
/// Tiles whose B a chain has asked for (kTilesAhead of products by themselves).
inline constexpr int kChainTilesAhead = 5;
/// Of partial sums.
inline constexpr int kChainBuffers = 2;
struct ChainGates {
  uint64_t full[kChainDepth], empty[kChainDepth];
  int32_t waits;  // for x of a link: 1; -1: all is done
};
/// Of A, 32 octets of a rank: what a warp that rounds has of x at a time (row_norm.cuh), and sums by itself
/// (low_rank.cuh).
inline constexpr int kRunInputs = 256, kPieceRuns = kPieceInputs / kRunInputs;
BB_BOTH int runs_of(int in) { return (in + kRunInputs - 1) / kRunInputs; }
/// Those of a rank that are multiplied by x of one warp, of which each has every eighth.
BB_BOTH int warp_runs_of(int in) { return (runs_of(in) + kConsumers - 1) / kConsumers; }
/// The most that a warp of a chain multiplies of a link.
inline constexpr int kMostRuns = 2;
/// Those of a link that a warp of one of `blocks` blocks has.
BB_BOTH int held_runs(const ProductArgs& a, int blocks) {
  return (a.terms * a.lora.ranks * warp_runs_of(a.in) + blocks - 1) / blocks;
}
struct RunOfA {
  const void* a;  // bf16, or null: the sum is zero
  int32_t octet;  // the first one, of x; -1: nothing
};
/// Adapters of a chain, in shared memory. What is there twice is of links in turn.
struct alignas(16) ChainLora {
  LoraTerm term[2][kStageTerms];
  float sum[2][kMostRuns][kConsumers];   // of runs, which are those of two pieces
  RunOfA run[2][kMostRuns][kConsumers];  // by warps
  int32_t word[2][kMostRuns][2];         // of StageLora::parts, for each piece; -1: nothing
  int32_t some[kMostLinks];              // the slot adds anything
  uint64_t found[kMostLinks];            // gates: all that is above is there
  uint64_t summed[kMostLinks];           // sums are
  uint64_t formed[kChangesAhead], added[kChangesAhead];
  float change[kChangesAhead][kTileRows];
};
/// After it: of B an octet a lane for each tile ahead, then u [places] f32.
BB_BOTH int chain_lora_bytes(int places) { return int(sizeof(ChainLora)) + kChainTilesAhead * 512 + places * 4; }
/// Offsets in dynamic shared memory; the ring comes first.
struct ChainShared {
  int32_t depth, digits, steps, partials, gates, total, lora;
};
/// Whether a stage may be a link of a chain, which are all cut alike; fills `a` as plan_product() does.
bool plan_link(const ProductStage& stage, const ProductCard& card, ProductArgs& a);
/// Of links that were planned. Those that fit one by one need not fit together, where one has the longest x and another
/// the most ranks: the total says so.
ChainShared plan_chain(std::span<const ProductArgs* const> links, const ProductCard& card);
/// Where the blocks of a grid begin with the units of one link after the other: block b with unit (b + shift) % blocks,
/// so that units that are left over go to those that have had none of them.
class LinkShifts {
 public:
  explicit LinkShifts(int blocks) : blocks_(blocks) {}
  int next(int units) {
    const int shift = (blocks_ - left_) % blocks_;
    left_ = (left_ + units) % blocks_;
    return shift;
  }

 private:
  const int blocks_;
  int left_ = 0;
};

/// Counters come first in a workspace: their place must not depend on the stage, since they are zero between stages.
inline constexpr size_t kCounterBytes = size_t(1) << 16;

}  // namespace bumblebee::cuda
