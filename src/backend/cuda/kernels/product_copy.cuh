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

/// The share of a tile that one of the copying warps has: 16 / Copiers rows of one half.
struct RowSource {
  const uint8_t *codes, *scales, *biases;  // of the first row
  int rows;                                // that are there
};
template <int Copiers>
__device__ __forceinline__ RowSource open_tile(const ProductArgs& a, int tile, int copier) {
  constexpr int kRows = kTileRows / Copiers;
  const TileHalf half = half_of_tile(a, tile, copier * kRows / 8);
  const StageWeight& weight = a.term[half.term];
  const int first = copier * kRows % 8, row = half.row + first;
  const int64_t scales = int64_t(row) * a.scale_row_bytes;
  return {static_cast<const uint8_t*>(weight.codes) + int64_t(row) * a.row_bytes,
          static_cast<const uint8_t*>(weight.scales) + scales, static_cast<const uint8_t*>(weight.biases) + scales,
          max(0, min(kRows, half.left - first))};
}

/// Scales and biases of a slab; those past the end of a row, or of no row, become 0. `to`: of the share's first row.
template <int Copiers>
__device__ __forceinline__ void copy_scales(const ProductArgs& a, const RowSource& source, int slab, uint32_t to,
                                            uint32_t lane) {
  constexpr int kRows = kTileRows / Copiers;
  const int at = slab * a.slab_scales, bits = a.row_copies_bits;
#pragma unroll 2
  for (int i = int(lane); i < 2 * kRows << bits; i += 32) {
    const int row = i >> bits & (kRows - 1), byte = (i & ((1 << bits) - 1)) * a.scale_copy;
    const bool biases = i >= kRows << bits;
    const uint8_t* from = (biases ? source.biases : source.scales) + row * a.scale_row_bytes + at + byte;
    const uint32_t target = to + uint32_t((biases ? a.plane : 0) + row * a.scale_pitch + byte);
    const bool there = row < source.rows && at + byte < a.scale_row_bytes;  // rows are whole copies
    if (a.scale_copy == 16) {
      copy_async_small<16>(target, from, there ? 16 : 0);
    } else if (a.scale_copy == 8) {
      copy_async_small<8>(target, from, there ? 8 : 0);
    } else if (a.scale_copy == 4) {
      copy_async_small<4>(target, from, there ? 4 : 0);
    } else {  // rows that begin anywhere: few and small models
      const uint16_t v = there ? *reinterpret_cast<const uint16_t*>(from) : uint16_t(0);
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(target), "h"(v) : "memory");
    }
  }
}

/// Codes of a slab. What lies past the end of a row meets digits that are 0, and rows that are not there have no
/// outputs: neither needs bytes.
template <int Copiers>
__device__ __forceinline__ void copy_codes(const ProductArgs& a, const RowSource& source, int slab, uint32_t to,
                                           uint32_t lane, uint64_t* gate, uint64_t policy) {
  const int at = slab * a.slab_codes, bytes = min(a.slab_codes, a.row_bytes - at);
#if __CUDA_ARCH__ >= 900
  if (a.copies_whole) {
    if (lane == 0) gate_expect(gate, source.rows * bytes);
    __syncwarp();
    if (int(lane) < source.rows)
      copy_bulk(to + lane * uint32_t(a.code_pitch), source.codes + int(lane) * a.row_bytes + at, bytes, gate, policy);
    return;
  }
#endif
#pragma unroll 1
  for (int row = 0; row < source.rows; ++row) {
    const uint8_t* from = source.codes + row * a.row_bytes + at;
    const uint32_t to_row = to + uint32_t(row * a.code_pitch);
    if (a.copies_whole) {
      for (int i = int(lane) * 16; i < bytes; i += 32 * 16) copy_async_16(to_row + i, from + i, policy);
    } else {
      for (int i = int(lane) * 4; i < bytes; i += 32 * 4) copy_async_small<4>(to_row + i, from + i, 4);
    }
  }
}

/// All of a copying warp's work. It waits for nothing but empty slots.
template <int Copiers>
__device__ __forceinline__ void copy_weights(const ProductArgs& a, int part, int first_unit, int stride, uint8_t* ring,
                                             Gates& gates, int copier, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits, begin = slab_begin(a, part), end = slab_begin(a, part + 1);
  const int first_row = copier * kTileRows / Copiers;
  const uint64_t policy = read_once_policy();
  const uint32_t codes = shared_address(ring) + uint32_t(first_row * a.code_pitch);
  const uint32_t scales = shared_address(ring) + uint32_t(a.scales_at + first_row * a.scale_pitch);
  int slot = 0;
  uint32_t parity = 1;
  for (int unit = first_unit; unit < a.units; unit += stride) {
    RowSource source = open_tile<Copiers>(a, unit * tiles, copier);
#pragma unroll 1
    for (int slab = begin; slab < end; ++slab) {
      gate_wait(gates.empty + slot, parity);
      const uint32_t at = uint32_t(slot * a.slot_bytes);
#pragma unroll 1
      for (int k = 0; k < tiles; ++k) {
        if (tiles > 1) source = open_tile<Copiers>(a, unit * tiles + k, copier);
        copy_codes<Copiers>(a, source, slab, codes + at + uint32_t(k * kTileRows * a.code_pitch), lane,
                            gates.full + slot, policy);
        copy_scales<Copiers>(a, source, slab, scales + at + uint32_t(k * kTileRows * a.scale_pitch), lane);
      }
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
