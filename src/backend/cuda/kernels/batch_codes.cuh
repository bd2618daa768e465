// W of products of batches (matmul_batch.cuh): from MLX's bytes to fragments of f16 numbers, two by one multiply-add.
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

/// Numbers are those of wide_codes.cuh in units that are 2^20 times as large. Four bits at the end of a half are a code
/// times 2^-24, and the four before them one times 2^-20, exactly: times scales that have these powers, which f16 holds
/// then, they are what a code is worth. Numbers below 2^-8 of the largest that a row can have lose bits: they are right
/// to 2^-18 of that.
inline constexpr float kBatchUnits = 0x1p20f, kBatchSmaller = 0x1p-20f;

/// What a group's codes become s·q + b with.
struct BatchScale {
  __half2 low, high, bias;  // of the last four bits of a half, and of those before them

  /// s and b in units of the row as wide_codes.cuh has them.
  __device__ __forceinline__ void set(float s, float b) {
    high = __float2half2_rn(s);
    low = __hmul2(high, __float2half2_rn(16.0f));
    bias = __float2half2_rn(b * kBatchSmaller);
  }
};

/// Fragments of four k16 steps, of which two octets are a lane's: registers `half` (row g or g + 8) and `half` + 2.
__device__ __forceinline__ void batch_fragments(uint32_t (&a)[4][4], uint32_t first, uint32_t second, int half,
                                                const BatchScale& scale) {
  const auto value = [&](uint32_t code, __half2 by) {
    const __half2 v = __hfma2(reinterpret_cast<const __half2&>(code), by, scale.bias);
    return reinterpret_cast<const uint32_t&>(v);
  };
#pragma unroll
  for (int o = 0; o < 2; ++o) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint32_t v = (o == 0 ? first : second) >> (8 * m);
      a[2 * o + m][half] = value(v & 0x000f000fu, scale.low);
      a[2 * o + m][half + 2] = value(v & 0x00f000f0u, scale.high);
    }
  }
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
