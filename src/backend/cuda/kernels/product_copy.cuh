// How a warp of product.cuh gets its stages: which rows of which weights are a tile, and the copies that ask for them.
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

/// A tile as one lane copies it.
struct TileSource {
  const uint8_t* codes[2];  // first row of either half, for four bits this lane's first 16 bytes of it
  const uint8_t* scales;    // the row of scales or of biases that this lane copies
  int left[2];
  bool has_scales, whole;  // whole: sixteen rows, whose copies need no masks
  int whole_until;         // tiles before this one are whole too, and of the same weights
};
/// What a lane's first copy is off a tile's first row. Four bits: eight lanes to a row.
template <int Bits>
__device__ __forceinline__ int lane_offset(const ProductArgs& a, uint32_t lane) {
  return Bits == 4 ? int(lane / 8) * a.row_bytes + int(lane % 8) * 16 : 0;
}
template <int Bits>
__device__ __forceinline__ TileSource open_tile(const ProductArgs& a, int tile, uint32_t lane) {
  TileSource source = {};
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const TileHalf part = half_of_tile(a, tile, int(half));
    const StageWeight& weight = a.term[part.term];
    source.codes[half] =
        static_cast<const uint8_t*>(weight.codes) + int64_t(part.row) * a.row_bytes + lane_offset<Bits>(a, lane);
    source.left[half] = part.left;
    if (half == lane / 8 % 2) {
      const void* plane = lane < 16 ? weight.scales : weight.biases;
      source.scales =
          static_cast<const uint8_t*>(plane) + int64_t(part.row + int(lane % 8)) * (a.groups * a.scale_bytes);
      source.has_scales = int(lane % 8) < part.left;
    }
  }
  source.whole = a.copies_whole && source.left[0] >= 8 && source.left[1] >= 8;
  const bool pairs = a.epilogue == ProductStage::Epilogue::silu_mul;
  const int both = source.left[0] < source.left[1] ? source.left[0] : source.left[1];
  source.whole_until = source.whole ? tile + (pairs ? both : both + 8) / (pairs ? 8 : kTileRows) : tile;
  return source;
}
/// The tile `step` tiles further on.
template <int Bits>
__device__ __forceinline__ void advance_tile(const ProductArgs& a, TileSource& source, int tile, int step,
                                             uint32_t lane) {
  if (tile >= source.whole_until) {
    source = open_tile<Bits>(a, tile, lane);
    return;
  }
  const int rows = step * (a.epilogue == ProductStage::Epilogue::silu_mul ? 8 : kTileRows);
  const int64_t codes = int64_t(rows) * a.row_bytes;
  source.codes[0] += codes;
  source.codes[1] += codes;
  source.scales += int64_t(rows) * (a.groups * a.scale_bytes);
}

/// A lane's row of scales (or biases) of one stage; those past the end of the row become 0.
__device__ __forceinline__ void copy_scales(const ProductArgs& a, const uint8_t* from, int valid, uint32_t to) {
  const int bytes = a.stage_scales;
  if (a.scale_copy == 16) {
    copy_async_small<16>(to, from, valid > 16 ? 16 : valid);
    if (bytes > 16) copy_async_small<16>(to + 16, from + 16, valid > 16 ? valid - 16 : 0);
  } else if (a.scale_copy == 4) {
    copy_async_small<4>(to, from, valid);
  } else if (a.scale_copy == 8) {
    copy_async_small<8>(to, from, valid);
  } else {  // rows that begin anywhere: few and small models
#pragma unroll 1
    for (int i = 0; i < bytes; i += 2) {
      const uint16_t v = i < valid ? *reinterpret_cast<const uint16_t*>(from + i) : uint16_t(0);
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + uint32_t(i)), "h"(v) : "memory");
    }
  }
}

/// A stage at the edge of a weight: what lies outside becomes 0. Rows may begin at any multiple of 4 bytes.
template <int Bits>
__device__ __noinline__ void copy_edge(const ProductArgs& a, const TileSource& source, int stage, uint32_t slot,
                                       uint32_t lane) {
  constexpr uint32_t kChunks = 2 * Bits;  // of 16 bytes in a row
#pragma unroll 1
  for (uint32_t i = lane; i < kTileRows * kChunks; i += 32) {
    const uint32_t row = i / kChunks, chunk = i % kChunks;
    const int at = stage * 32 * Bits + int(chunk) * 16, half = row < 8 ? 0 : 1;
    int valid = int(row % 8) < source.left[half] ? a.row_bytes - at : 0;
    const uint8_t* from = source.codes[half] - lane_offset<Bits>(a, lane) + int(row % 8) * a.row_bytes + at;
    const uint32_t to = slot + stage_offset(Bits, row, chunk);
#pragma unroll 1
    for (int word = 0; word < 16; word += 4, valid -= 4) copy_async_small<4>(to + word, from + word, valid > 0 ? 4 : 0);
  }
  int valid = a.groups * a.scale_bytes - stage * a.stage_scales;
  valid = !source.has_scales || valid < 0 ? 0 : (valid > a.stage_scales ? a.stage_scales : valid);
  copy_scales(a, source.scales + stage * a.stage_scales, valid,
              slot + kTileRows * stage_pitch(Bits) + lane * uint32_t(a.stage_scales));
}

/// Asks for stage `stage` of a tile.
template <int Bits>
__device__ __forceinline__ void copy_stage(const ProductArgs& a, const TileSource& source, int stage, uint32_t slot,
                                           uint32_t lane, uint64_t policy) {
  if (!source.whole || stage >= a.whole_stages) return copy_edge<Bits>(a, source, stage, slot, lane);
  const int at = stage * 32 * Bits;
  if constexpr (Bits == 4) {
    const uint32_t row = lane / 8, chunk = lane % 8;
    const uint32_t to[2] = {slot + row * 128 + (chunk ^ row) * 16, slot + (row + 4) * 128 + (chunk ^ (row + 4)) * 16};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint8_t* from = source.codes[half] + at;
      copy_async_16(to[0] + half * 1024, from, policy);
      copy_async_16(to[1] + half * 1024, from + a.four_rows, policy);
    }
  } else {
    constexpr uint32_t kChunks = 2 * Bits;
#pragma unroll
    for (uint32_t i = 0; i < Bits; ++i) {
      const uint32_t row = (lane + 32 * i) / kChunks, chunk = (lane + 32 * i) % kChunks;
      const uint8_t* from = (row < 8 ? source.codes[0] : source.codes[1]) + (int(row % 8) * a.row_bytes + at);
      copy_async_16(slot + stage_offset(Bits, row, chunk), from + chunk * 16, policy);
    }
  }
  copy_async_by_size(slot + kTileRows * stage_pitch(Bits) + lane * uint32_t(a.stage_scales),
                     source.scales + stage * a.stage_scales, a.scale_copy, a.stage_scales);
}

}  // namespace bumblebee::cuda
