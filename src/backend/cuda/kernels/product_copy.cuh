// The copying warps of product.cuh: which rows of which weights are a tile, and what asks for their bytes.
#pragma once

#include "backend/cuda/kernels/product.cuh"

namespace bumblebee::cuda {

/// Eight rows of a weight: half of a tile. In silu_mul a tile is eight rows of the gate and the same eight of up.
struct TileHalf {
  int term, row, left;  // left: rows of the weight from `row` on; may be less than eight, or none
};
__device__ __forceinline__ TileHalf half_of_tile(const ProductArgs& a, int tile, int half) {
  int term = 0, row = tile * 8;
  if (a.epilogue == ProductStage::Epilogue::silu_mul) {
    term = half;
  } else {
#pragma unroll
    for (int i = 1; i < kStageTerms; ++i)
      if (tile >= a.first_tile[i]) term = i;
    row = (tile - a.first_tile[term]) * kTileRows + half * 8;
  }
  return {term, row, tile < a.tiles ? a.term[term].out - row : 0};
}

/// What of a stage a block works on: all of it, or a tile of one expert.
struct ProductSlot {
  int expert;       // whose rows of W are meant
  int first, rows;  // of y, and of x in a tile
  __device__ __forceinline__ int weights_row(const ProductArgs& a, const TileHalf& half) const {
    return expert * a.term[half.term].out + half.row;
  }
};
__device__ __forceinline__ ProductSlot whole_stage(const ProductArgs& a) { return {0, 0, a.rows}; }

/// A warp's share of a slab of half a tile with copies that every card has. What lies past the end of a row meets
/// digits that are 0, and rows that are not there have no outputs: neither needs codes, but scales that are numbers.
__device__ __forceinline__ void copy_half(const ProductArgs& a, const ProductSlot& of, const TileHalf& half, int slab,
                                          uint32_t codes, uint32_t scales, int share, uint32_t lane, uint64_t policy) {
  constexpr int kShares = kCopiers > 1 ? 2 : 1;
  const StageWeight& weight = a.term[half.term];
  const int64_t first_row = of.weights_row(a, half);
  const int rows = max(0, min(8, half.left)), at = slab * a.slab_codes, bytes = min(a.slab_codes, a.row_bytes - at);
#pragma unroll 1
  for (int row = share; row < rows; row += kShares) {
    const uint8_t* from = static_cast<const uint8_t*>(weight.codes) + (first_row + row) * a.row_bytes + at;
    for (int i = int(lane) * a.code_copy; i < bytes; i += 32 * a.code_copy) {
      const uint32_t to = codes + slab_offset(uint32_t(row), uint32_t(i));
      if (a.code_copy == 16)
        copy_async_16(to, from + i, policy);
      else
        copy_async_small<4>(to, from + i, 4);
    }
  }
  const int bits = a.row_copies_bits, first = slab * a.slab_scales;
#pragma unroll 1
  for (int i = int(lane) + 32 * share; i < 2 * 8 << bits; i += 32 * kShares) {
    const int row = i >> bits & 7, byte = (i & ((1 << bits) - 1)) * a.scale_copy;
    const void* plane = i < 8 << bits ? weight.scales : weight.biases;
    const uint8_t* source = static_cast<const uint8_t*>(plane) + (first_row + row) * a.scale_row_bytes + first + byte;
    const uint32_t target = scales + uint32_t((i < 8 << bits ? 0 : a.plane) + row * a.slab_scales + byte);
    const bool there = row < rows && first + byte < a.scale_row_bytes;  // rows are whole copies
    if (a.scale_copy == 16) {
      copy_async_small<16>(target, source, there ? 16 : 0);
    } else if (a.scale_copy == 8) {
      copy_async_small<8>(target, source, there ? 8 : 0);
    } else if (a.scale_copy == 4) {
      copy_async_small<4>(target, source, there ? 4 : 0);
    } else {  // rows that begin anywhere: few and small models
      const uint16_t v = there ? *reinterpret_cast<const uint16_t*>(source) : uint16_t(0);
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(target), "h"(v) : "memory");
    }
  }
}

/// All of a copying warp's work. It waits for nothing but empty slots.
__device__ __forceinline__ void copy_weights(const ProductArgs& a, const ProductMaps& maps, const ProductSlot& of,
                                             int part, int first_unit, int stride, uint8_t* ring, Gates& gates,
                                             int copier, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits, begin = slab_begin(a, part), end = slab_begin(a, part + 1);
  const uint64_t policy = read_once_policy();
  const int half_scales = 8 * a.slab_scales;
  int slot = 0;
  uint32_t parity = 1;
#if __CUDA_ARCH__ >= 900
  if (a.boxes) {
    if (lane != 0) return;
    const int slab_columns = a.half_bytes / kHalfColumn;
    int asked = 0;  // of the first slabs, which have the first slots
    for (int unit = first_unit; unit < a.units; unit += stride) {
      TileHalf half[2] = {half_of_tile(a, unit * tiles, 0), half_of_tile(a, unit * tiles, 1)};
#pragma unroll 1
      for (int slab = begin; slab < end; ++slab) {
        gate_wait(gates.empty + slot, parity);
        if (asked < a.depth) {
          if (asked >= a.asked_at_once) gate_wait(gates.full + asked - a.asked_at_once, 0);
          ++asked;
        }
        uint64_t* gate = gates.full + slot;
        gate_expect(gate, a.slab_bytes);
        const uint32_t codes = shared_address(ring) + uint32_t(slot * a.slot_bytes), scales = codes + a.scales_at;
#pragma unroll 1
        for (int k = 0; k < tiles; ++k) {
          if (tiles > 1) half[0] = half_of_tile(a, unit * tiles + k, 0), half[1] = half_of_tile(a, unit * tiles + k, 1);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int at = 2 * k + h, term = half[h].term, row = of.weights_row(a, half[h]);
            copy_box(codes + at * a.half_bytes, maps.codes + term, 0, row, slab * slab_columns, gate, policy);
            copy_box(scales + at * half_scales, maps.scales + term, slab * a.slab_scales, row, gate, policy);
            copy_box(scales + a.plane + at * half_scales, maps.biases + term, slab * a.slab_scales, row, gate, policy);
          }
        }
        gate_arrive(gate);
        if (++slot == a.depth) slot = 0, parity ^= 1;
      }
    }
    return;
  }
#endif
  for (int unit = first_unit; unit < a.units; unit += stride) {
#pragma unroll 1
    for (int slab = begin; slab < end; ++slab) {
      gate_wait(gates.empty + slot, parity);
      const uint32_t codes = shared_address(ring) + uint32_t(slot * a.slot_bytes), scales = codes + a.scales_at;
#pragma unroll 1
      for (int at = copier / 2; at<2 * tiles; at += kCopiers> 1 ? 2 : 1)
        copy_half(a, of, half_of_tile(a, unit * tiles + at / 2, at % 2), slab, codes + at * a.half_bytes,
                  scales + at * half_scales, copier % 2, lane, policy);
      gate_arrive_after_copies(gates.full + slot);
      __syncwarp();
      if (lane == 0) gate_arrive(gates.full + slot);
      if (++slot == a.depth) slot = 0, parity ^= 1;
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
}

}  // namespace bumblebee::cuda
