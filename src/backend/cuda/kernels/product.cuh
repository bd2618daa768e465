// The kernel of product.h. Eight warps multiply: each owns a class of inputs of a 16-row tile (maps.h), asks for its
// own stages with cp.async, four and more ahead, and waits for nobody. A ninth adds up what they have, and writes it. A
// block may hold all classes of one tile, or few classes of several tiles and then one part of x only; the last block
// to finish a tile adds the parts.
#pragma once

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {

inline constexpr int kBlockThreads = 32 * (kConsumers + 1);

/// Stages that a warp asks for ahead: what fits, so that the next kernel's block has room beside this one.
inline constexpr int kLeastDepth = 2, kMostDepth = 6;

/// The most pieces of A that a block holds.
inline constexpr int kMostHeld = 4;

/// A stage as the kernel takes it: what the host can work out once.
struct ProductArgs {
  StageWeight term[kStageTerms];
  int32_t first_tile[kStageTerms + 1];
  int32_t in, rows;      // rows as stored; `columns` counts digits
  int32_t virtual_rows;  // rows, twice that in exact precision
  int32_t columns;       // of digits that are kept, 2·(virtual rows, padded where there are many)
  int32_t row_bytes, groups, group, scale_bytes;
  ScaleType scale;
  int32_t copies_whole;  // rows of codes begin at 16-byte addresses, and those of scales where scale_copy wants them
  int32_t whole_stages;  // of a row: those that end before it does
  int32_t four_rows;     // bytes of codes
  int32_t scale_copy;    // bytes of an asynchronous copy of scales, 0: element by element
  int32_t stage_scales;  // bytes of a row's scales in a stage
  int32_t slot_bytes, depth;
  int32_t stages, classes;                    // stages_of(in), classes_of(in)
  int32_t width, parts;                       // width: warps to a tile, and classes to a block; parts·width = classes
  int32_t class_bits, width_bits, part_bits;  // their logarithms: a division costs as much as a stage's products
  int32_t tiles, units;                       // a unit: the tiles that a block's warps work on at a time
  int32_t exact;
  ProductStage::Epilogue epilogue;
  const float* residual;
  StageInput input;
  StageLora lora;
  int32_t terms, pieces, items, held;  // of adapters: pieces of x, pieces of all ranks, and of these in a block
  float* partials;
  uint32_t* arrived;
};

/// Offsets in dynamic shared memory.
struct SharedPlan {
  int scales, digits, steps, partials, lora, total;  // the ring of stages comes first
};
/// Floats that a warp's widened scales and biases take.
template <int Group>
inline constexpr int kScaleFloats = 2 * kTileRows * (kStageInputs / Group);

/// First stage of a class, as maps.h has it.
BB_BOTH int class_begin(const ProductArgs& a, int index) { return (index * a.stages) >> a.class_bits; }
BB_BOTH int part_begin(const ProductArgs& a, int part) { return class_begin(a, part << a.width_bits); }
/// Blocks of 32 inputs.
BB_BOTH int blocks_of_part(const ProductArgs& a, int part) {
  return (part_begin(a, part + 1) - part_begin(a, part)) * (kStageInputs / 32);
}

}  // namespace bumblebee::cuda
