// What a warp of product.cuh does with a stage: codes to bytes, bytes and digits to whole sums, sums times scales.
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/kernels/product.cuh"

namespace bumblebee::cuda {

/// Two f16 or bf16.
__device__ __forceinline__ float2 widen(uint32_t pair, ScaleType type) {
  if (type == ScaleType::bf16) return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ __forceinline__ float4 widen(uint2 pairs, ScaleType type) {
  const float2 a = widen(pairs.x, type), b = widen(pairs.y, type);
  return {a.x, a.y, b.x, b.y};
}
/// Two scales for groups of 128 inputs, each of which counts for two of 64.
__device__ __forceinline__ float4 twice(float2 v) { return {v.x, v.x, v.y, v.y}; }

/// A stage's scales and biases as f32: [plane][row][256 / Group]. A lane widens the row that it copied itself, so this
/// needs no barrier before it, and what all lanes of a row would do four times is done once.
template <int Group>
__device__ __forceinline__ void widen_scales(const ProductArgs& a, const uint8_t* scales, float* to, uint32_t lane) {
  const uint8_t* from = scales + lane * uint32_t(a.stage_scales);
  const auto pairs = [&](int i) { return reinterpret_cast<const uint2*>(from)[i]; };
  const auto floats = [&](int i) { return reinterpret_cast<const float4*>(from)[i]; };
  float4* row = reinterpret_cast<float4*>(to + lane * (kStageInputs / Group));
  const bool wide = a.scale == ScaleType::f32;
  if constexpr (Group == 32) {
    row[0] = wide ? floats(0) : widen(pairs(0), a.scale);
    row[1] = wide ? floats(1) : widen(pairs(1), a.scale);
  } else if (a.group == 64) {
    row[0] = wide ? floats(0) : widen(pairs(0), a.scale);
  } else {
    row[0] = twice(wide ? *reinterpret_cast<const float2*>(from)
                        : widen(*reinterpret_cast<const uint32_t*>(from), a.scale));
  }
}

/// Fragments of A: of four blocks, those registers of 16 rows that a lane holds.
template <int Bits>
__device__ __forceinline__ void load_codes(const uint8_t* slot, int half, uint32_t lane, uint32_t (&a)[4][4]) {
  constexpr int kPitch = stage_pitch(Bits);
  if constexpr (Bits == 4) {  // an octet is a word, and a block 16 bytes: what ldmatrix deals out
    const uint32_t from = shared_address(slot) + stage_offset(4, lane % 8, uint32_t(half) * 4 + lane / 8);
    uint32_t upper[4], lower[4];
    load_matrices(upper, from);
    load_matrices(lower, from + 8 * kPitch);
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      const Octet u = unpack_octet<4>(upper[block], 0), l = unpack_octet<4>(lower[block], 0);
      a[block][0] = u.even, a[block][1] = l.even, a[block][2] = u.odd, a[block][3] = l.odd;
    }
  } else {
    const uint32_t octet = lane % 4, byte = octet * Bits % 4;
    const uint8_t* from = slot + lane / 4 * kPitch + half * 16 * Bits + octet * Bits - byte;
#pragma unroll
    for (int block = 0; block < 4; ++block) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const uint8_t* at = from + row * 8 * kPitch + block * 4 * Bits;
        uint2 words;
        if constexpr (Bits == 8) {
          words = *reinterpret_cast<const uint2*>(at);
        } else {
          words.x = *reinterpret_cast<const uint32_t*>(at);
          words.y = Bits == 2 ? 0 : *reinterpret_cast<const uint32_t*>(at + 4);  // past the octet, it is not used
          words.x = funnel(words.x, words.y, int(byte * 8));
          words.y = words.y >> (byte * 8);
        }
        const Octet codes = unpack_octet<Bits>(words.x, words.y);
        a[block][row] = codes.even, a[block][2 + row] = codes.odd;
      }
    }
  }
}

/// A lane's place in digits and steps. Where few rows are kept, lanes of columns that do not exist read another's.
struct InputView {
  const uint8_t *digits, *steps;  // of the stage's first block
  int block_bytes, group_bytes;
};

/// 128·high + low digits of two rows of the weight, times the step.
__device__ __forceinline__ float2 in_steps(const int (&d)[4], float step) {
  return {float(d[0] * 128 + d[1]) * step, float(d[2] * 128 + d[3]) * step};
}

/// acc += a stage. Lane 4g + t has rows g and g + 8 of the tile for rows t, t + 4, .. of x.
template <int Bits, int Group, int Tiles>
__device__ __forceinline__ void multiply_stage(const uint8_t* slot, const float* scales, const InputView& x, uint32_t lane,
                                               float (&acc)[Tiles][2]) {
  constexpr int kPlane = kTileRows * (kStageInputs / Group) / 4, kRow = kStageInputs / Group / 4;  // of float4
  const float4* scale_rows = reinterpret_cast<const float4*>(scales) + lane / 4 * kRow;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[4][4];
    load_codes<Bits>(slot, half, lane, a);
    const int at = Group == 32 ? half : 0;
    const float4 scale0 = scale_rows[at], scale1 = scale_rows[8 * kRow + at];
    const float4 bias0 = scale_rows[kPlane + at], bias1 = scale_rows[kPlane + 8 * kRow + at];
#pragma unroll
    for (int group = 0; group < 2; ++group) {  // of 64 inputs, as many as share a step
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        const uint8_t* b = x.digits + (half * 4 + group * 2) * x.block_bytes + tile * 256;
        const uint2 b0 = *reinterpret_cast<const uint2*>(b), b1 = *reinterpret_cast<const uint2*>(b + x.block_bytes);
        const uint8_t* step_at = x.steps + (half * 2 + group) * x.group_bytes + tile * 64;
        const int zero[4] = {};
        int d[4];
        multiply(d, a[group * 2], b0, zero);
        if constexpr (Group == 64) {
          multiply(d, a[group * 2 + 1], b1, d);
          const float2 shared = *reinterpret_cast<const float2*>(step_at);
          const float2 v = in_steps(d, shared.x);
          const bool low = half == 0;
          const float s0 = group == 0 ? (low ? scale0.x : scale0.z) : (low ? scale0.y : scale0.w);
          const float s1 = group == 0 ? (low ? scale1.x : scale1.z) : (low ? scale1.y : scale1.w);
          const float c0 = group == 0 ? (low ? bias0.x : bias0.z) : (low ? bias0.y : bias0.w);
          const float c1 = group == 0 ? (low ? bias1.x : bias1.z) : (low ? bias1.y : bias1.w);
          acc[tile][0] = fmaf(c0, shared.y, fmaf(s0, v.x, acc[tile][0]));
          acc[tile][1] = fmaf(c1, shared.y, fmaf(s1, v.y, acc[tile][1]));
        } else {
          int e[4];
          multiply(e, a[group * 2 + 1], b1, zero);
          const float4 shared = *reinterpret_cast<const float4*>(step_at);
          const float2 v = in_steps(d, shared.x), w = in_steps(e, shared.x);
          acc[tile][0] = fmaf(group == 0 ? bias0.x : bias0.z, shared.z,
                              fmaf(group == 0 ? scale0.x : scale0.z, v.x, acc[tile][0]));
          acc[tile][0] = fmaf(group == 0 ? bias0.y : bias0.w, shared.w,
                              fmaf(group == 0 ? scale0.y : scale0.w, w.x, acc[tile][0]));
          acc[tile][1] = fmaf(group == 0 ? bias1.x : bias1.z, shared.z,
                              fmaf(group == 0 ? scale1.x : scale1.z, v.y, acc[tile][1]));
          acc[tile][1] = fmaf(group == 0 ? bias1.y : bias1.w, shared.w,
                              fmaf(group == 0 ? scale1.y : scale1.w, w.y, acc[tile][1]));
        }
      }
    }
  }
}

}  // namespace bumblebee::cuda
