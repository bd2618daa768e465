// Products of batches (matmul_batch.cuh): what a launch is told, and the rings in shared memory that two warps fill
// with codes and scales of W, and with x.
#pragma once

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/matmul_batch.h"
#include "backend/cuda/kernels/tensor_copy.cuh"
#include "backend/cuda/kernels/tensor_map.h"
#include "backend/cuda/kernels/wide_stages.cuh"

namespace bumblebee::cuda {

/// A unit: the outputs of a warpgroup. A box of a tensor copy has half of them.
inline constexpr int kBatchUnit = 64, kHalfUnit = kBatchUnit / 2;
/// A slab: columns of W whose codes are copied at a time, and a unit's bytes of them.
inline constexpr int kSlabColumns = 256, kSlabBytes = kBatchUnit * 128;
/// A span: columns whose scales, and biases, are copied at a time.
inline constexpr int kSpanColumns = 1024, kSpanBytes = kBatchUnit * 32;
inline constexpr int kSpanSlabs = kSpanColumns / kSlabColumns, kSpanPairs = kSpanColumns / kPairColumns;
inline constexpr int kSpanSlots = 2, kPairSlots = 5, kMostSlabs = 12;
/// Slabs on their way at a time: x waits behind all that is asked for.
inline constexpr int kSlabsAsked = 2;
inline constexpr int kSlabInfo = kBatchOctets * 4;  // of a slab of B: where its octets of ranks lie
inline constexpr int kRowOctets = kBatchRows / 8;   // of x

/// Groups: warpgroups that multiply. One more copies, and leaves them its registers.
template <int Groups>
struct BatchShape {
  static constexpr int kThreads = (Groups + 1) * kGroupThreads;
  static constexpr int kRegisters = Groups == 3 ? 152 : 208;
  static constexpr int kBarriers = 16 * (kMostSlabs + kPairSlots + kSpanSlots);
  static constexpr int kFixed = kPairSlots * kPairBytes + Groups * kSpanSlots * 2 * kSpanBytes + kBatchRows * 4 +
                                kBarriers + kMostSlabs * kSlabInfo + 1024;
  static constexpr int kMost = 227 * 1024;  // what a block may have
  static constexpr int kSlabs = std::min(kMostSlabs, (kMost - kFixed) / (Groups * kSlabBytes));
  static constexpr size_t kShared = size_t(kFixed) + size_t(kSlabs) * Groups * kSlabBytes;
};

struct BatchTerm {
  const float* units;
  const float* bias;
  float* y;
  int out, first_unit;
  bool add;
};
struct BatchArgs {
  const uint8_t* x;
  const float* steps;
  BatchTerm term[kMaxTerms];
  int terms, rows, pairs, units, splits, tiles;
  /// A unit is half of one of the first term and of the second, and what is kept is silu(first)·second.
  bool paired;
  float4* partials;    // [tile][split][octet of rows][thread]
  uint32_t* counters;  // [tile][unit]
  WideLora lora;
};
struct BatchMaps {
  TensorMap codes[kMaxTerms], scales[kMaxTerms], biases[kMaxTerms];
};

#if BB_HAS_WGMMA

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void load_shared_16(uint32_t (&w)[4], uint32_t at) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "r"(at)
               : "memory");
}
__device__ __forceinline__ uint2 load_shared_8(uint32_t at) {
  uint2 w;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(w.x), "=r"(w.y) : "r"(at) : "memory");
  return w;
}

/// What lies where in a block's shared memory: slabs, pairs of tiles of x, spans, the rows' steps, and for each place
/// of a ring a barrier that says that it is full and one that says that it was read.
template <int Groups>
struct BatchRing {
  using Shape = BatchShape<Groups>;
  uint32_t base;

  __device__ __forceinline__ uint32_t slab(uint32_t s) const { return base + s * (Groups * kSlabBytes); }
  __device__ __forceinline__ uint32_t pair(uint32_t s) const { return slab(Shape::kSlabs) + s * kPairBytes; }
  /// Scales of a unit, then its biases, for all units.
  __device__ __forceinline__ uint32_t span(uint32_t s) const {
    return pair(kPairSlots) + s * (Groups * 2 * kSpanBytes);
  }
  __device__ __forceinline__ uint32_t steps() const { return span(kSpanSlots); }
  __device__ __forceinline__ uint32_t slab_full(uint32_t s) const { return steps() + kBatchRows * 4 + s * 16; }
  __device__ __forceinline__ uint32_t slab_empty(uint32_t s) const { return slab_full(s) + 8; }
  __device__ __forceinline__ uint32_t pair_full(uint32_t s) const { return slab_full(Shape::kSlabs) + s * 16; }
  __device__ __forceinline__ uint32_t pair_empty(uint32_t s) const { return pair_full(s) + 8; }
  __device__ __forceinline__ uint32_t span_full(uint32_t s) const { return pair_full(kPairSlots) + s * 16; }
  __device__ __forceinline__ uint32_t span_empty(uint32_t s) const { return span_full(s) + 8; }
  /// Of a slab of B.
  __device__ __forceinline__ uint32_t info(uint32_t s) const { return span_full(kSpanSlots) + s * kSlabInfo; }

  __device__ __forceinline__ void init() const {
    constexpr uint32_t kReaders = Groups * kGroupThreads / kWarp;
    for (uint32_t s = 0; s < Shape::kSlabs; ++s) init_barrier(slab_full(s), 1), init_barrier(slab_empty(s), kReaders);
    for (uint32_t s = 0; s < kPairSlots; ++s) init_barrier(pair_full(s), 1), init_barrier(pair_empty(s), kReaders);
    for (uint32_t s = 0; s < kSpanSlots; ++s) init_barrier(span_full(s), 1), init_barrier(span_empty(s), kReaders);
    fence_barriers();
  }
};

/// A place in a ring. Who fills begins with parity 1: nothing was there before the first time.
template <uint32_t Count>
struct Turn {
  uint32_t at = 0, parity;
  __device__ __forceinline__ explicit Turn(uint32_t first) : parity(first) {}
  __device__ __forceinline__ void next() {
    if (++at == Count) at = 0, parity ^= 1;
  }
};

/// Columns of a split, in pairs of tiles: spans are never cut.
struct BatchPart {
  int first, end;
};
__device__ __forceinline__ BatchPart part_of(const BatchArgs& args, int split) {
  const int spans = (args.pairs + kSpanPairs - 1) / kSpanPairs;
  return {split * spans / args.splits * kSpanPairs, min(args.pairs, (split + 1) * spans / args.splits * kSpanPairs)};
}
__device__ __forceinline__ int term_of_unit(const BatchArgs& args, int unit) {
  int which = 0;
  while (!args.paired && which + 1 < args.terms && unit >= args.term[which + 1].first_unit) ++which;
  return which;
}
/// The last module that units up to this one have.
__device__ __forceinline__ int last_term_of(const BatchArgs& args, int unit) {
  return args.paired ? 1 : term_of_unit(args, unit);
}

/// Where the units of a tile begin.
template <int Groups>
struct TileUnits {
  int term[Groups], row[Groups];

  __device__ __forceinline__ TileUnits(const BatchArgs& args, int first_unit) {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      const int unit = first_unit + g;
      term[g] = term_of_unit(args, unit);
      // Beyond the last: zeros are copied.
      row[g] = (unit - args.term[term[g]].first_unit) * (args.paired ? kHalfUnit : kBatchUnit);
    }
  }
};

/// One half of a unit at a time, from one of the maps: rows of W from `units.row` on.
template <int Groups>
__device__ __forceinline__ void copy_units(const BatchArgs& args, const TensorMap* maps, const TileUnits<Groups>& units,
                                           int column, uint32_t to, uint32_t unit_bytes, uint32_t half_bytes,
                                           uint32_t barrier, uint64_t policy) {
#pragma unroll
  for (int g = 0; g < Groups; ++g)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      copy_box_2d(to + uint32_t(g) * unit_bytes + uint32_t(h) * half_bytes, &maps[args.paired ? h : units.term[g]],
                  column, units.row[g] + (args.paired ? 0 : h * kHalfUnit), barrier, policy);
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
