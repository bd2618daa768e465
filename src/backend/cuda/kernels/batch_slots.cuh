// Adapters of products of batches (matmul_batch.cuh): B through slabs, u through pairs of tiles of x, a stage of slots
// at a time.
#pragma once

#include "backend/cuda/kernels/batch_ring.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

/// Stages of slots that a module's adapters have.
__device__ __forceinline__ int stages_of_slots(const WideLora& lora, int module) {
  const int slots = kBatchOctets / lora.steps;
  return (__ldcg(&lora.adapters[module].count) + slots - 1) / slots;
}

/// Calls visit(module, stage) for all stages that a tile has.
template <int Groups, class Visit>
__device__ __forceinline__ void for_stages(const BatchArgs& args, int first_unit, const Visit& visit) {
  const int last = last_term_of(args, first_unit + Groups - 1);
  for (int m = term_of_unit(args, first_unit); m <= last; ++m) {
    const int stages = stages_of_slots(args.lora, m);
    for (int stage = 0; stage < stages; ++stage) visit(m, stage);
  }
}

/// Asks for B of a stage's slots, for the units of this module: a lane for an octet of ranks, and a copy for those that
/// lie in one row of B.
template <int Groups>
__device__ __forceinline__ void fill_slots(const BatchRing<Groups>& ring, uint32_t slab, const BatchArgs& args,
                                           int module, int stage, const TileUnits<Groups>& units, int lane) {
  const int steps = args.lora.steps, slots = kBatchOctets / steps;
  const WideAdapters& adapters = args.lora.adapters[module];
  const int slot = stage * slots + lane / steps, octet = lane % steps;
  const __nv_bfloat16* b = nullptr;
  uint32_t pitch = 0;  // bytes
  if (lane < kBatchOctets && slot < __ldcg(&adapters.count)) {
    b = static_cast<const __nv_bfloat16*>(adapters.factor[slot].b[octet]);
    pitch = b != nullptr ? uint32_t(adapters.factor[slot].pitch[octet]) * 2 : 0;
  }
  const uint64_t before = __shfl_up_sync(0xffffffffu, reinterpret_cast<uint64_t>(b), 1);
  const bool follows = octet > 0 && b != nullptr && before + kRankOctet * 2 == reinterpret_cast<uint64_t>(b);
  uint32_t place = uint32_t(lane / steps) * uint32_t(kSlabBytes / slots), end = place + kBatchUnit * pitch;
  for (int o = 1; o < steps; ++o) {
    const uint32_t last_place = __shfl_up_sync(0xffffffffu, place, 1), last_end = __shfl_up_sync(0xffffffffu, end, 1);
    if (octet != o) continue;
    place = follows ? last_place + kRankOctet * 2 : last_end;
    end = follows ? last_end : last_end + kBatchUnit * pitch;
  }
  const bool leads = b != nullptr && !follows;
  int rows[Groups], all = 0;
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    const int most = args.paired ? kHalfUnit : units.term[g] == module ? kBatchUnit : 0;
    rows[g] = max(0, min(most, args.term[module].out - units.row[g]));
    all += rows[g];
  }
  if (lane < kBatchOctets) store_shared(ring.info(slab) + uint32_t(lane) * 4, b != nullptr ? place | pitch << 16 : 0u);
  const uint32_t bytes = __reduce_add_sync(0xffffffffu, leads ? uint32_t(all) * pitch : 0u);
  __syncwarp();  // what lanes have said of octets is part of what lane 0 tells
  if (lane == 0) expect_bytes(ring.slab_full(slab), bytes);
  __syncwarp();
#pragma unroll
  for (int g = 0; g < Groups; ++g)
    if (leads && rows[g] > 0)
      copy_bulk(ring.slab(slab) + uint32_t(g) * kSlabBytes + place, b + size_t(units.row[g]) * size_t(pitch / 2),
                uint32_t(rows[g]) * pitch, ring.slab_full(slab));
}

/// acc += B u of a stage's slots, one after the other: in a slot's columns the rows of others are zero. own: the lane's
/// rows of B, or -1.
__device__ __forceinline__ void add_slots(float (&acc)[32], uint32_t pair, uint32_t slab, uint32_t info,
                                          const WideLora& lora, int module, int stage, const int (&own)[2],
                                          const float (&inverse)[2], int t) {
  const int steps = lora.steps, slots = kBatchOctets / steps;
  const int count = min(__ldcg(&lora.adapters[module].count) - stage * slots, slots);
  const uint64_t u = swizzled_tile(__shfl_sync(0xffffffffu, pair, 0));
#pragma unroll 1
  for (int i = 0; i < count * steps / 2; ++i) {
    uint32_t word[4];
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const uint32_t place = load_shared(info + uint32_t(2 * i + o) * 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        word[2 * o + h] = 0;
        if (place == 0 || own[h] < 0) continue;
        const uint32_t raw = load_shared(slab + (place & 0xffffu) + uint32_t(own[h]) * (place >> 16) + uint32_t(4 * t));
        const __nv_bfloat162 product =
            __hmul2(reinterpret_cast<const __nv_bfloat162&>(raw), __float2bfloat162_rn(inverse[h]));
        word[2 * o + h] = reinterpret_cast<const uint32_t&>(product);
      }
    }
    // Sixteen high parts and sixteen low ones: two of these are a tile.
    const uint64_t at = u + uint64_t(i / 2 * (kTileBytes >> 4) + i % 2 * 4);
    wgmma_fence();
    wgmma<true>(acc, word, at, true);
    wgmma<true>(acc, word, at + 2, true);
    wgmma_commit();
    wgmma_wait<0>();
    keep_order(acc);
  }
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
