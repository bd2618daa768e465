// Codes that are small floats (quant/float_codes.h), as halves: their exponent and mantissa are put where a half has
// its own, which makes them smaller by a power of two, subnormal ones too. For nvcc only.
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

BB_BOTH constexpr int bits_of(Code code) { return code == Code::e2m1 ? 4 : 8; }
/// What a code is larger than its half.
BB_BOTH constexpr float power_of(Code code) { return code == Code::e2m1 ? 16384.0f : 256.0f; }

/// Of two codes, in the low bits of both halves of a word; the bits above them may be anything.
template <Code code>
__device__ __forceinline__ uint32_t halves_of(uint32_t codes) {
  static_assert(code != Code::uint);
  if constexpr (code == Code::e2m1) return (codes & 0x00070007u) << 9 | (codes & 0x00080008u) << 12;
  return (codes & 0x007f007fu) << 7 | (codes & 0x00800080u) << 8;
}

/// The eight or four codes of a word, in order, each smaller by power_of().
template <Code code>
__device__ __forceinline__ void small_codes(uint32_t word, float* values) {
  constexpr int kHalf = 16 / bits_of(code);
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const uint32_t pair = halves_of<code>(word >> (i * bits_of(code)));
    const float2 v = __half22float2(reinterpret_cast<const __half2&>(pair));
    values[i] = v.x, values[i + kHalf] = v.y;
  }
}

/// One code, at its size.
__device__ inline float float_code(Code code, uint32_t bits) {
  const uint32_t half = code == Code::e2m1 ? halves_of<Code::e2m1>(bits) : halves_of<Code::e4m3>(bits);
  return __half2float(__ushort_as_half(uint16_t(half))) * power_of(code);
}

}  // namespace bumblebee::cuda
