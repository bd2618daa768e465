// The kernel of product.h. Some warps ask for the weights, slab after slab (maps.h), into a ring in shared memory; eight
// warps multiply, each the stages of its class; a ninth adds up what they have, and writes it. A block holds all inputs
// of x, or some sections of them; in that case the blocks that share a tile add up their parts at the end.
#pragma once

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {

/// Warps that multiply come first, then the one that finishes, then those that copy.
inline constexpr int kWorkingThreads = 32 * (kConsumers + 1);
/// One warp that starts a bulk copy for each row of a slab is too slow; four need registers of two blocks.
BB_BOTH constexpr int copiers_of(int tiles) { return tiles > 1 ? 4 : 2; }
BB_BOTH constexpr int block_threads(int tiles) { return kWorkingThreads + 32 * copiers_of(tiles); }
/// Barrier of those that work, besides the four of the partial sums and kRoundBarrier.
inline constexpr int kWorkersBarrier = 6;

/// Slabs of a ring. Fewer than kLeastBeside do not cover what it takes until a kernel's own x is there.
inline constexpr int kLeastDepth = 2, kLeastBeside = 3, kMostDepth = 8;

/// A stage as the kernel takes it: what the host can work out once.
struct ProductArgs {
  StageWeight term[kStageTerms];
  int32_t first_tile[kStageTerms + 1];
  int32_t in, rows;      // rows as stored; `columns` counts digits
  int32_t virtual_rows;  // rows, twice that in exact precision
  int32_t columns;       // of digits that are kept, 2·(virtual rows, padded where there are many)
  int32_t row_bytes, scale_row_bytes, group;
  ScaleType scale;
  int32_t copies_whole;                  // rows of codes begin at 16-byte addresses
  int32_t scale_copy;                    // bytes of an asynchronous copy of scales, 2: element by element
  int32_t row_copies_bits;               // logarithm of the number of those of a row in a slab
  int32_t stage_scales;                  // bytes of a row's scales in a stage
  int32_t slab_codes, slab_scales;       // bytes of a row in a slab
  int32_t code_pitch, scale_pitch;       // and between rows
  int32_t scales_at, plane;              // in a slot: the first scale, and bytes from there to the first bias
  int32_t slot_bytes, depth, buffers;    // buffers of partial sums
  int32_t stages, width, width_bits;     // width: classes_of(in), the warps to a tile
  int32_t slabs, sections, parts;        // parts: blocks that share a tile
  int32_t tiles, units;                  // a unit: the tiles that a block's warps work on at a time
  int32_t exact;
  ProductStage::Epilogue epilogue;
  const float* residual;
  StageInput input;
  float* partials;
  uint32_t* arrived;
};

/// Offsets in dynamic shared memory.
struct SharedPlan {
  int digits, steps, partials, gates, total;  // the ring comes first
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

}  // namespace bumblebee::cuda
