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
    row[0] =
        twice(wide ? *reinterpret_cast<const float2*>(from) : widen(*reinterpret_cast<const uint32_t*>(from), a.scale));
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
/// What a group adds: s·Σ q·x + b·Σ x, with Σ q·x in `v`.
__device__ __forceinline__ float of_group(float scale, float v, float bias, float sum) {
  return fmaf(bias, sum, scale * v);
}

/// acc += a stage. Lane 4g + t has rows g and g + 8 of the tile for rows t, t + 4, .. of x. The sum of a stage is that
/// of its four groups of 64 as a tree, as multiply_stage_one forms it too.
template <int Bits, int Group, int Tiles>
__device__ __forceinline__ void multiply_stage(const uint8_t* slot, const float* scales, const InputView& x,
                                               uint32_t lane, float (&acc)[Tiles][2]) {
  constexpr int kPlane = kTileRows * (kStageInputs / Group) / 4, kRow = kStageInputs / Group / 4;  // of float4
  const float4* scale_rows = reinterpret_cast<const float4*>(scales) + lane / 4 * kRow;
  float earlier[Tiles][2];  // the first half's sum
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[4][4];
    load_codes<Bits>(slot, half, lane, a);
    float scale[2][4], bias[2][4];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float4 s = scale_rows[row * 8 * kRow + (Group == 32 ? half : 0)];
      const float4 b = scale_rows[kPlane + row * 8 * kRow + (Group == 32 ? half : 0)];
      scale[row][0] = s.x, scale[row][1] = s.y, scale[row][2] = s.z, scale[row][3] = s.w;
      bias[row][0] = b.x, bias[row][1] = b.y, bias[row][2] = b.z, bias[row][3] = b.w;
    }
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
      float sums[2][2];
#pragma unroll
      for (int group = 0; group < 2; ++group) {  // of 64 inputs, as many as share a step
        const uint8_t* b = x.digits + (half * 4 + group * 2) * x.block_bytes + tile * 256;
        const uint2 b0 = *reinterpret_cast<const uint2*>(b), b1 = *reinterpret_cast<const uint2*>(b + x.block_bytes);
        const float4 shared =
            *reinterpret_cast<const float4*>(x.steps + (half * 2 + group) * x.group_bytes + tile * 64);
        const int zero[4] = {};
        int d[4];
        multiply(d, a[group * 2], b0, zero);
        if constexpr (Group == 64) {
          multiply(d, a[group * 2 + 1], b1, d);
          const float2 v = in_steps(d, shared.x);
          const int at = half * 2 + group;
          sums[group][0] = of_group(scale[0][at], v.x, bias[0][at], shared.y);
          sums[group][1] = of_group(scale[1][at], v.y, bias[1][at], shared.y);
        } else {
          int e[4];
          multiply(e, a[group * 2 + 1], b1, zero);
          const float2 v = in_steps(d, shared.x), w = in_steps(e, shared.x);
          const int at = group * 2;
          sums[group][0] = of_group(scale[0][at], v.x, bias[0][at], shared.z) +
                           of_group(scale[0][at + 1], w.x, bias[0][at + 1], shared.w);
          sums[group][1] = of_group(scale[1][at], v.y, bias[1][at], shared.z) +
                           of_group(scale[1][at + 1], w.y, bias[1][at + 1], shared.w);
        }
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float sum = sums[0][row] + sums[1][row];
        if (half == 0)
          earlier[tile][row] = sum;
        else
          acc[tile][row] += earlier[tile][row] + sum;
      }
    }
  }
}

/// Scales of one row as they lie in a stage. No branch, which would keep stages from running side by side: both
/// readings of 16 bits are formed, and one is taken.
template <bool Wide>
struct ScaleRow {
  const uint8_t* at;
  bool bf16;
  __device__ __forceinline__ float operator[](uint32_t i) const {
    if constexpr (Wide) return reinterpret_cast<const float*>(at)[i];
    const uint32_t bits = reinterpret_cast<const uint16_t*>(at)[i];
    const float a = widen(bits, ScaleType::bf16).x, b = widen(bits, ScaleType::f16).x;
    return bf16 ? a : b;
  }
};

/// The same for one row of x, whose two columns of digits leave six free: columns 2j and 2j + 1 take the digits of
/// group j of the stage and zeros for the others, so that lane 4g + t ends with the sum of group t and needs its scales
/// only.
template <int Bits, int Group, bool Wide>
__device__ __forceinline__ float2 stage_sum_one(const ProductArgs& args, const uint8_t* slot, const InputView& x,
                                                uint32_t lane) {
  const uint2 digits[2] = {*reinterpret_cast<const uint2*>(x.digits),
                           *reinterpret_cast<const uint2*>(x.digits + x.block_bytes)};
  const float4 shared = *reinterpret_cast<const float4*>(x.steps);
  const uint32_t own = lane / 8, group = lane % 4;
  const uint32_t first = Group == 32 ? group * 2 : (args.group == 128 ? group / 2 : group);
  const uint8_t* rows = slot + kTileRows * stage_pitch(Bits) + lane / 4 * uint32_t(args.stage_scales);
  float scale[2][64 / Group], bias[2][64 / Group];
#pragma unroll
  for (uint32_t row = 0; row < 2; ++row) {
    const ScaleRow<Wide> s = {rows + row * 8 * uint32_t(args.stage_scales), args.scale == ScaleType::bf16};
    const ScaleRow<Wide> b = {s.at + kTileRows * args.stage_scales, s.bf16};
#pragma unroll
    for (uint32_t i = 0; i < 64 / Group; ++i) scale[row][i] = s[first + i], bias[row][i] = b[first + i];
  }
  int d[2][4] = {};  // first and second blocks of all groups
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[4][4];
    load_codes<Bits>(slot, half, lane, a);
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      const bool mine = own == uint32_t(half * 2 + block / 2);
      const uint2 b = {mine ? digits[block % 2].x : 0u, mine ? digits[block % 2].y : 0u};
      multiply(d[block % 2], a[block], b, d[block % 2]);
    }
  }
  if constexpr (Group == 64) {
    const int both[4] = {d[0][0] + d[1][0], d[0][1] + d[1][1], d[0][2] + d[1][2], d[0][3] + d[1][3]};
    const float2 v = in_steps(both, shared.x);
    return {of_group(scale[0][0], v.x, bias[0][0], shared.y), of_group(scale[1][0], v.y, bias[1][0], shared.y)};
  } else {
    const float2 v = in_steps(d[0], shared.x), w = in_steps(d[1], shared.x);
    return {of_group(scale[0][0], v.x, bias[0][0], shared.z) + of_group(scale[0][1], w.x, bias[0][1], shared.w),
            of_group(scale[1][0], v.y, bias[1][0], shared.z) + of_group(scale[1][1], w.y, bias[1][1], shared.w)};
  }
}
/// Over the four groups of a stage.
__device__ __forceinline__ float2 over_groups(float2 sum) {
  sum.x += __shfl_xor_sync(0xffffffffu, sum.x, 1);
  sum.y += __shfl_xor_sync(0xffffffffu, sum.y, 1);
  sum.x += __shfl_xor_sync(0xffffffffu, sum.x, 2);
  sum.y += __shfl_xor_sync(0xffffffffu, sum.y, 2);
  return sum;
}
template <int Bits, int Group>
__device__ __forceinline__ void multiply_stage_one(const ProductArgs& args, const uint8_t* slot, const InputView& x,
                                                   uint32_t lane, float (&acc)[2]) {
  const float2 sum = over_groups(args.scale == ScaleType::f32 ? stage_sum_one<Bits, Group, true>(args, slot, x, lane)
                                                              : stage_sum_one<Bits, Group, false>(args, slot, x, lane));
  acc[0] += sum.x;
  acc[1] += sum.y;
}
/// Two stages side by side; scales of 16 bits.
template <int Bits, int Group>
__device__ __forceinline__ void multiply_stages_one(const ProductArgs& args, const uint8_t* slot, const uint8_t* second,
                                                    const InputView& x, const InputView& later, uint32_t lane,
                                                    float (&acc)[2]) {
  const float2 own = stage_sum_one<Bits, Group, false>(args, slot, x, lane);
  const float2 next = stage_sum_one<Bits, Group, false>(args, second, later, lane);
  const float2 first = over_groups(own), last = over_groups(next);
  acc[0] = (acc[0] + first.x) + last.x;
  acc[1] = (acc[1] + first.y) + last.y;
}

}  // namespace bumblebee::cuda
