// What the parts of the kernel of product_rows.h share. A tile is 64 outputs: two halves of 32 rows of W, of which a
// warp has eight each, so that a warp's 16 are a tile as product.h has it. Block r of a cluster multiplies the classes
// 2r and 2r + 1 of all sections (maps.h): two warpgroups, each with one class of all rows of x or with half of the rows
// of both. Sums of a class go to the block that finishes the warp's outputs. Sections come one after the other, and in
// each of them all tiles: a block's x of a section is small enough to stay.
#pragma once

#include <cuda_bf16.h>

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/maps.h"
#include "backend/cuda/kernels/product_round.cuh"
#include "backend/cuda/kernels/product_rows.h"
#include "backend/cuda/kernels/tensor_copy.cuh"
#include "backend/cuda/kernels/tensor_map.h"
#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

inline constexpr int kRowsCluster = 4, kRowsOut = 64, kRowsHalf = kRowsOut / 2;
inline constexpr int kRowsGroups = 2;  // warpgroups that multiply
/// A third warpgroup: one warp asks for weights, one for x, two finish.
inline constexpr int kRowsThreads = (kRowsGroups + 1) * 128;
/// Classes of a slab that are a block's.
inline constexpr int kRowsClasses = kMaxClasses / kRowsCluster;

/// A slot of the ring: a slab of a tile. Codes [half][class][32 rows]{128 bytes}, scales and biases [half][32 rows]{two
/// classes}.
inline constexpr int kRowsColumn = kRowsHalf * kColumnBytes, kRowsHalfCodes = kRowsClasses * kRowsColumn;
inline constexpr int kRowsScaleRow = kRowsClasses * 8, kRowsHalfScales = kRowsHalf * kRowsScaleRow;
inline constexpr int kRowsScalesAt = 2 * kRowsHalfCodes, kRowsPlane = 2 * kRowsHalfScales;
inline constexpr int kRowsSlot = kRowsScalesAt + 2 * kRowsPlane;
inline constexpr int kRowsMostDepth = 10;

/// Up to so many rows are rounded by the blocks that multiply them.
inline constexpr int kMostOwnRows = 8;

/// How many rows a launch's blocks keep: those of a warpgroup, times groups of them.
struct RowShape {
  int of_group, groups;
  BB_BOTH constexpr int rows() const { return of_group * groups; }
};
BB_BOTH constexpr RowShape row_shape(int rows) {
  return rows <= 8    ? RowShape{8, 1}
         : rows <= 32 ? RowShape{(rows + 7) / 8 * 8, 1}
         : rows <= 48 ? RowShape{24, 2}
                      : RowShape{32, 2};
}
/// x of 256 inputs: two tiles of 128 bytes for each digit of each row, swizzled, the inputs of a block in the order of
/// an MMA's slots; and [64 inputs][row]{step, sum}, rows in the order in which lanes want them.
BB_BOTH constexpr int row_tile(int rows) { return 2 * rows * 128; }
BB_BOTH constexpr int stage_steps(int rows) { return kStageInputs / kStepGroup * rows * int(sizeof(float2)); }
BB_BOTH constexpr int place_of_row(int row, int of_group) {
  const int group = row / of_group, at = row % of_group, j = at / 4;
  return group * of_group + (j / 2 * 4 + at % 4) * 2 + j % 2;
}

/// Where x goes: all of it in memory, or what is a block's in its shared memory.
template <bool OfBlock>
struct RowTarget {
  uint8_t* digits;
  float2* steps;
  int rows, of_group, first_block;
  /// The number of the stage that an octet is in, of those that are kept.
  __device__ __forceinline__ int stage(int octet) const {
    constexpr int kStageOctets = kStageInputs / 8;
    const int all = octet / kStageOctets;
    return OfBlock ? all / kMaxClasses * kRowsClasses + all % kRowsClasses : all;
  }
};
template <bool OfBlock>
__device__ __forceinline__ void store_digits(const RowTarget<OfBlock>& to, int row, int octet, const uint32_t (&v)[8]) {
  const int block = octet % 16 / 4, n = 2 * row;
  uint8_t* const tile =
      to.digits + size_t(to.stage(octet) * 2 + octet / 16 % 2) * size_t(row_tile(to.rows)) + octet % 4 * 4;
  const auto at = [&](int digit, int odd) {
    const int column = n + digit;
    return reinterpret_cast<uint32_t*>(tile + column * 128 + (((2 * block + odd) ^ (column % 8)) * 16));
  };
  *at(0, 0) = high_digits(v[0], v[2], v[4], v[6]), *at(0, 1) = high_digits(v[1], v[3], v[5], v[7]);
  *at(1, 0) = low_digits(v[0], v[2], v[4], v[6]), *at(1, 1) = low_digits(v[1], v[3], v[5], v[7]);
}
template <bool OfBlock>
__device__ __forceinline__ void store_group(const RowTarget<OfBlock>& to, int row, int octet, float step, int first,
                                            int second) {
  to.steps[(to.stage(octet) * 4 + octet / 8 % 4) * to.rows + place_of_row(row, to.of_group)] = {
      step, step * float(first + second)};
}

/// What a row's slot does to one term.
struct RowTerm {
  const __nv_bfloat16* b;  // of its first term, or null: it has none, and adds `scale`
  const float* bias;
  const SiteView* more;  // where it has further terms
  float scale;
  int32_t padded;  // ranks of the first term; -1: the slot has nothing here
};

struct RowsArgs {
  StageWeight term[kStageTerms];
  int32_t first_tile[kStageTerms + 1];
  int32_t in, rows, terms, stages, slabs, sections, tiles;
  StageInput input;       // plain or rms_norm: blocks round x themselves
  int32_t depth, inputs;  // slots of the ring; sections of x that are kept
  int32_t buffers;        // of sums
  ProductStage::Epilogue epilogue;
  const float* residual;
  const uint8_t *digits, *steps;
  float* sums;  // of sections before the last
  /// Tiles that clusters take whole; those behind them are dealt section by section, `items` sections in all.
  int32_t whole, items;
  uint32_t* arrived;  // of such a tile and block: sections that are there
  TileLora lora;
  int32_t u_ranks, u_pitch;  // of a term and of a row of u in shared memory
  NextAdapters next;
};
struct RowsMaps {
  TensorMap codes[kStageTerms], scales[kStageTerms], biases[kStageTerms];
};

using RowsKernel = void (*)(RowsArgs, RowsMaps);
/// Those of product_rows_lora.cu.
RowsKernel rows_kernel_with_adapters(const RowShape& shape, bool bf16);

/// Offsets in shared memory, from a multiple of 1,024.
struct RowsPlan {
  int digits, steps, sums, squares, lora, gates, total;
};
BB_BOTH constexpr int rows_sum_bytes(int rows) { return 8 * 16 * (rows <= 32 ? rows : rows / 2) * 4; }
/// `terms`, `u_pitch`: of adapters, or 0.
BB_BOTH RowsPlan rows_plan(int rows, int depth, int inputs, int buffers, int terms, int u_pitch) {
  RowsPlan p = {};
  const int stages = inputs * kSectionSlabs * kRowsClasses;
  p.digits = depth * kRowsSlot;
  p.steps = p.digits + stages * 2 * row_tile(rows);
  p.sums = p.steps + stages * stage_steps(rows);
  p.squares = p.sums + buffers * rows_sum_bytes(rows);
  p.lora = p.squares + kMostOwnRows * (kRoundThreads / 32) * int(sizeof(float));
  p.gates = p.lora + rows * (terms * int(sizeof(RowTerm)) + u_pitch * int(sizeof(float)));
  p.total = p.gates + (2 * kRowsMostDepth + 2 * 2 + 2 + 2 * kRowsCluster + 1) * 8 + 1024;
  return p;
}

/// Rows of half a tile, from `row` of the term on.
struct RowsHalf {
  int term, row;
};
__device__ __forceinline__ RowsHalf rows_half(const RowsArgs& a, int tile, int half) {
  if (a.epilogue == ProductStage::Epilogue::silu_mul) return {half, tile * kRowsHalf};
  int term = 0;
#pragma unroll
  for (int i = 1; i < kStageTerms; ++i)
    if (tile >= a.first_tile[i]) term = i;
  return {term, (tile - a.first_tile[term]) * kRowsOut + half * kRowsHalf};
}

/// Sections that are dealt at most, to as many clusters.
inline constexpr int kMostItems = 64;

/// Of a block: where it stands in the grid.
struct RowsPlace {
  int rank, cluster, clusters;
};
/// How many tiles a cluster takes whole, how many it has in a section with the one that is dealt to it, and which.
__device__ __forceinline__ int whole_turns(const RowsArgs& a, const RowsPlace& at) {
  return (a.whole - at.cluster + at.clusters - 1) / at.clusters;
}
__device__ __forceinline__ int turns_of(const RowsArgs& a, const RowsPlace& at, int section) {
  return whole_turns(a, at) + (at.cluster < a.items && at.cluster % a.sections == section ? 1 : 0);
}
__device__ __forceinline__ int tile_of_turn(const RowsArgs& a, const RowsPlace& at, int turn) {
  const int tile = at.cluster + turn * at.clusters;
  return tile < a.whole ? tile : a.whole + at.cluster / a.sections;
}

#if BB_HAS_WGMMA

/// Gates as addresses in shared memory.
struct RowsGates {
  uint32_t at;
  __device__ __forceinline__ uint32_t full(int slot) const { return at + uint32_t(slot) * 8; }
  __device__ __forceinline__ uint32_t empty(int slot) const { return full(kRowsMostDepth + slot); }
  __device__ __forceinline__ uint32_t input(int which) const { return full(2 * kRowsMostDepth + which); }
  __device__ __forceinline__ uint32_t input_empty(int which) const { return input(2 + which); }
  __device__ __forceinline__ uint32_t sums(int which) const { return input(4 + which); }
  __device__ __forceinline__ uint32_t sums_empty(int block, int which) const { return input(6 + 2 * block + which); }
  __device__ __forceinline__ uint32_t squares() const { return sums_empty(kRowsCluster, 0); }
};

__device__ __forceinline__ uint32_t address_in(uint32_t at, uint32_t rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(at), "r"(rank));
  return remote;
}
/// Stores that arrive at a gate of the same block as bytes do: whoever waits there sees them, and no fence is needed.
__device__ __forceinline__ void send(uint32_t to, float4 v, uint32_t gate) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(gate)
      : "memory");
}
__device__ __forceinline__ void send(uint32_t to, float v, uint32_t gate) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(v),
               "r"(gate)
               : "memory");
}
__device__ __forceinline__ float4 load_four(uint32_t at) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ uint2 load_two(uint32_t at) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ void copy_box_3d(uint32_t to, const void* map, int y, int z, uint32_t gate,
                                            uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {0, %2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(y), "r"(z), "r"(gate), "l"(policy)
      : "memory");
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
