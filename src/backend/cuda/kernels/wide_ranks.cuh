// Adapters of products of many rows (matmul_wide.cuh): B in place of W, u = A x in place of x.
#pragma once

#include "backend/cuda/kernels/wide_stages.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

/// Octets of ranks of a lane's rows of B, as fragments want them, in units of the rows of W.
struct WideRanks {
  uint32_t word[kWideOctets / 2][4];  // of two octets: each row's word of the first, then of the second

  __device__ __forceinline__ void load(const WideFactor& factor, int steps, int n, int out, const float (&inverse)[2],
                                       int t) {
#pragma unroll
    for (int o = 0; o < kWideOctets; ++o) {
      const auto* b = o < steps ? static_cast<const __nv_bfloat16*>(factor.b[o]) : nullptr;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t& to = word[o / 2][o % 2 * 2 + h];
        to = 0;
        if (b == nullptr) continue;
        const size_t row = size_t(min(n + h * 8, out - 1));
        const __nv_bfloat162 pair =
            *reinterpret_cast<const __nv_bfloat162*>(b + row * size_t(factor.pitch[o]) + size_t(2 * t));
        const __nv_bfloat162 product = __hmul2(pair, __float2bfloat162_rn(inverse[h]));
        to = reinterpret_cast<const uint32_t&>(product);
      }
    }
  }
  /// The same from a stage. `row`: of the tile.
  __device__ __forceinline__ void load_stage(uint32_t tile, uint32_t info, int steps, int row,
                                             const float (&inverse)[2], int t) {
#pragma unroll
    for (int o = 0; o < kWideOctets; ++o) {
      const uint32_t place = o < steps ? load_shared(info + 4 + uint32_t(o) * 4) : 0u;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t& to = word[o / 2][o % 2 * 2 + h];
        to = 0;
        if (place == 0) continue;
        const uint32_t raw =
            load_shared(tile + (place & 0xffffu) + uint32_t(row + h * 8) * (place >> 16) + uint32_t(4 * t));
        const __nv_bfloat162 product =
            __hmul2(reinterpret_cast<const __nv_bfloat162&>(raw), __float2bfloat162_rn(inverse[h]));
        to = reinterpret_cast<const uint32_t&>(product);
      }
    }
  }
  /// acc += B u: high parts of sixteen ranks, then low ones.
  template <int Count>
  __device__ __forceinline__ void multiply(float (&acc)[Count], uint64_t tile, int steps) const {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kWideOctets / 2; ++i) {
      if (2 * i >= steps) continue;
      wgmma<true>(acc, word[i], tile + uint64_t(4 * i), true);
      wgmma<true>(acc, word[i], tile + uint64_t(4 * i + 2), true);
    }
    wgmma_commit();
  }
};

/// B u of rows of several slots: with each slot's B for all of a block's rows, of which only that slot's are taken.
template <int Chunks>
__device__ __forceinline__ void add_mixed(const WideAdapters* adapters, const WideLora& lora, uint64_t tile, int n,
                                          int out, const float (&inverse)[2], int t, float (&acc)[Chunks * 32]) {
#pragma unroll
  for (int c = 0; c < Chunks; ++c) {
    const WideAdapters& block = adapters[c * lora.modules];
    const int count = block.slot == WideAdapters::kNoRows ? 0 : block.count;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      WideRanks ranks;
      ranks.load(block.factor[i], lora.steps, n, out, inverse, t);
      float sum[32];
#pragma unroll
      for (int j = 0; j < 32; ++j) sum[j] = acc[c * 32 + j];
      ranks.multiply(sum, tile + uint64_t(c * kTileBytes >> 4), lora.steps);
      wgmma_wait<0>();
      keep_order(sum);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int2 of = *reinterpret_cast<const int2*>(block.of_row + 8 * j + 2 * t);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = 4 * j + 2 * h;
          acc[c * 32 + at] = of.x == i ? sum[at] : acc[c * 32 + at];
          acc[c * 32 + at + 1] = of.y == i ? sum[at + 1] : acc[c * 32 + at + 1];
        }
      }
    }
  }
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
