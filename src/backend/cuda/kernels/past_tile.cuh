// The past of a row in tiles of 16 tokens, as tensor cores take them: straight from the pages to the registers of a
// warp. For attend_mma.cuh.
#pragma once

#include "backend/cuda/kernels/attend.h"
#include "backend/cuda/kernels/mma.cuh"
#include "backend/cuda/kernels/pages.cuh"

namespace bumblebee::cuda {

inline constexpr int kPastTokens = 16;  // of a tile; pages are whole tiles
/// A row's past is cut into strands (strand s: tiles s, s + kPastStrands and so on), a warp to each.
inline constexpr int kPastWarps = 4, kPastSplits = 16, kPastStrands = kPastWarps * kPastSplits;

/// Eight elements of a token's key or value, as they lie in memory, and as pairs of bf16. Other blocks wrote some of
/// them while this one was already running, so L1 may not answer.
template <class T>
struct PastOctet;
template <>
struct PastOctet<__nv_bfloat16> {
  uint4 raw;
  __device__ __forceinline__ void ask(const uint8_t* at) {
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "l"(at)
                 : "memory");
  }
  __device__ __forceinline__ void take(const uint8_t* shared) { raw = *reinterpret_cast<const uint4*>(shared); }
  __device__ __forceinline__ void pairs(uint32_t (&p)[4]) const {
    p[0] = raw.x, p[1] = raw.y, p[2] = raw.z, p[3] = raw.w;
  }
};
template <>
struct PastOctet<Int8> {
  uint2 raw;
  __device__ __forceinline__ void ask(const uint8_t* at) {
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(raw.x), "=r"(raw.y) : "l"(at) : "memory");
  }
  __device__ __forceinline__ void take(const uint8_t* shared) { raw = *reinterpret_cast<const uint2*>(shared); }
  /// Exact: seven bits of a code are the mantissa of a number from 128 to 255, from which its sign takes 128 or 256.
  __device__ __forceinline__ void pairs(uint32_t (&p)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t codes = __byte_perm(i < 2 ? raw.x : raw.y, 0, i % 2 == 0 ? 0x4140 : 0x4342);
      const uint32_t more = (codes & 0x007f007fu) | 0x43004300u, less = (codes & 0x00800080u) | 0x43004300u;
      const __nv_bfloat162 x =
          __hsub2(reinterpret_cast<const __nv_bfloat162&>(more), reinterpret_cast<const __nv_bfloat162&>(less));
      p[i] = reinterpret_cast<const uint32_t&>(x);
    }
  }
};

/// What a row sees, in tiles.
struct PastView {
  int begin, last, tiles;
  const uint8_t* const* pages;

  /// How many blocks' worth of strands there is something in.
  __device__ int splits() const { return min(kPastSplits, (tiles + kPastWarps - 1) / kPastWarps); }
  /// The first tile of a strand that has something, or one behind the last.
  __device__ int first_of(int strand) const {
    const int from = begin / kPastTokens;
    return strand >= from ? strand : strand + (from - strand + kPastStrands - 1) / kPastStrands * kPastStrands;
  }
  __device__ int first_token(int tile) const { return begin - tile * kPastTokens; }
  __device__ int end_token(int tile) const { return last + 1 - tile * kPastTokens; }
};
__device__ inline PastView past_view(const AttendArgs& a, const BatchView& batch, int row) {
  const int last = batch.cached[row];
  return {a.window > 0 ? max(0, last - a.window + 1) : 0, last, max(last, 0) / kPastTokens + 1,
          batch.pages + batch.first_page[row]};
}

/// Where a tile of a head lies: its keys, and which of the page's tokens is the first. Null: there is none.
struct TileAddress {
  const uint8_t* keys;
  int token;

  __device__ __forceinline__ TileAddress of_lane(int lane) const {
    const auto from = __shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(keys), lane);
    return {reinterpret_cast<const uint8_t*>(from), __shfl_sync(0xffffffffu, token, lane)};
  }
};
/// Lane l looks up the tile that is l after `first` in its strand: no tile waits for its address.
template <class T>
__device__ __forceinline__ TileAddress look_up_tiles(const KvView& kv, const PastView& past, int kv_head, int first,
                                                     int lane) {
  const int tile = first + lane * kPastStrands;
  if (tile >= past.tiles) return {nullptr, 0};
  const int page = tile * kPastTokens / kv.page_size, token = tile * kPastTokens - page * kv.page_size;
  return {head_at(kv, past.pages[page], 0, kv_head) + token * kv.head_dim * int(sizeof(T)), token};
}

/// Asks L2 for a tile whole, shortly before lanes ask for their parts of it: memory has long runs sooner than short
/// ones.
template <class T, int Dim>
__device__ __forceinline__ void prefetch_tile(const TileAddress& at, size_t values_at, int lane) {
  constexpr int kBytes = kPastTokens * Dim * int(sizeof(T));
  if (at.keys == nullptr) return;
#if __CUDA_ARCH__ >= 900
  if (lane < 2) prefetch_bulk(at.keys + (lane == 0 ? 0 : values_at), kBytes);
#else
  for (int i = lane * 64; i < kBytes; i += kWarp * 64) prefetch_l2(at.keys + i), prefetch_l2(at.keys + values_at + i);
#endif
}

/// A tile of one head in a warp's registers. Lane 4g + t has of the keys of tokens g and g + 8 every fourth octet from
/// t on, and of the values of tokens 2t, 2t + 1, 2t + 8 and 2t + 9 every eighth octet from g on: in which order
/// features are added up, and which row of a product is which feature, is free.
template <class T, int Dim>
struct PastTile {
  static constexpr int kBytes = int(sizeof(T));
  PastOctet<T> key[2][Dim / 32], value[Dim / 64][4];
  float key_step[2], value_step[2];  // of int8, of tokens g and g + 8

  __device__ static int value_token(int i, int lane) { return lane % 4 * 2 + i % 2 + i / 2 * 8; }

  /// values_at: from keys to values.
  __device__ __forceinline__ void ask_keys(const KvView& kv, const TileAddress& at, size_t values_at, int lane) {
    const uint8_t* const own = at.keys + (lane / 4 * Dim + lane % 4 * 8) * kBytes;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int j = 0; j < Dim / 32; ++j) key[r][j].ask(own + (8 * r * Dim + 32 * j) * kBytes);
      if constexpr (kBytes == 1) {
        const uint8_t* const steps =
            at.keys - at.token * Dim + kv.scales_at + (at.token + lane / 4 + 8 * r) * int(sizeof(float));
        key_step[r] = __ldcg(reinterpret_cast<const float*>(steps));
        value_step[r] = __ldcg(reinterpret_cast<const float*>(steps + values_at));
      }
    }
  }
  /// Tokens from `begin` to before `end` are seen. Others are zero: what lies there may be anything, and zero times it
  /// need not be zero.
  __device__ __forceinline__ void ask_values(const TileAddress& at, size_t values_at, int begin, int end, int lane) {
    const uint8_t* const own = at.keys + values_at + (lane % 4 * 2 * Dim + lane / 4 * 8) * kBytes;
    const auto ask = [&](int i, int h) { value[h][i].ask(own + ((i % 2 + i / 2 * 8) * Dim + 64 * h) * kBytes); };
    if (begin <= 0 && end >= kPastTokens) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int h = 0; h < Dim / 64; ++h) ask(i, h);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = value_token(i, lane) >= begin && value_token(i, lane) < end;
#pragma unroll
      for (int h = 0; h < Dim / 64; ++h) {
        value[h][i] = {};
        if (seen) ask(i, h);
      }
    }
  }
  /// One of its tokens from shared memory, where a step lies behind each.
  __device__ __forceinline__ void replace(int token, const uint8_t* keys, const uint8_t* values, int lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (lane / 4 + 8 * r != token) continue;
#pragma unroll
      for (int j = 0; j < Dim / 32; ++j) key[r][j].take(keys + (32 * j + lane % 4 * 8) * kBytes);
      if constexpr (kBytes == 1) {
        key_step[r] = *reinterpret_cast<const float*>(keys + Dim);
        value_step[r] = *reinterpret_cast<const float*>(values + Dim);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (value_token(i, lane) != token) continue;
#pragma unroll
      for (int h = 0; h < Dim / 64; ++h) value[h][i].take(values + (64 * h + lane / 4 * 8) * kBytes);
    }
  }
};

}  // namespace bumblebee::cuda
