// The kernel of product.h. A warp asks for the weights, slab after slab (maps.h), into a ring in shared memory; eight
// warps multiply, each the stages of its class; a ninth adds up what they have, and writes it. A block holds all inputs
// of x, or some sections of them; in that case the blocks that share a tile add up their parts at the end.
#pragma once

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {

/// Warps that multiply come first, then the one that finishes, then those that copy: one where it has tensor copies to
/// start, four where every 16 bytes are a copy of their own.
inline constexpr int kWorkingThreads = 32 * (kConsumers + 1), kMostCopiers = 4;
constexpr int copiers_of(bool sm_90) { return sm_90 ? 1 : kMostCopiers; }
#if __CUDA_ARCH__ >= 900 || !defined(__CUDA_ARCH__)
inline constexpr int kCopiers = 1;
#else
inline constexpr int kCopiers = kMostCopiers;
#endif
inline constexpr int kBlockThreads = kWorkingThreads + 32 * kCopiers;  // of the target that is compiled for

/// Barrier of those that work, besides the four of the partial sums and kRoundBarrier.
inline constexpr int kWorkersBarrier = 6;

/// Slabs of a ring, and its bytes where a block shares its multiprocessor: with less the copies are too few, and three
/// slabs of four bits stream slower than six do alone.
inline constexpr int kLeastDepth = 2, kEnoughDepth = 3, kMostDepth = 8, kEnoughBytes = 1 << 16;

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
  int32_t buffers;                    // of partial sums
  int32_t stages, width, width_bits;  // width: classes_of(in), the warps to a tile
  int32_t slabs, sections, parts;     // parts: blocks that share a tile
  int32_t tiles, units;               // a unit: the tiles that a block's warps work on at a time
  int32_t exact;
  ProductStage::Epilogue epilogue;
  const float* residual;
  StageInput input;
  StageLora lora;
  int32_t terms, pieces, items, held;  // of adapters: pieces of x, pieces of all ranks, and of these in a block
  float* partials;
  uint32_t* arrived;
};

/// What tensor copies want to know: 128 bytes of each plane, made by the driver.
struct alignas(64) TensorMap {
  uint64_t words[16];
};
struct ProductMaps {
  TensorMap codes[kStageTerms], scales[kStageTerms], biases[kStageTerms];
};

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

}  // namespace bumblebee::cuda
