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

inline constexpr uint32_t kLowCodes = 0x0f0f0f0fu;  // of four bits

/// Where a stage lies in a slot.
struct StageView {
  const uint8_t* codes;   // of the tile, from the slab's first input on
  const uint8_t* scales;  // of the stage's first group and the tile's first row
  int of_class;
};

/// Four scales, or biases, of a row of 16-bit or 32-bit ones, those of groups of 64 from `half` on where groups are
/// smaller.
template <int Group>
__device__ __forceinline__ float4 load_scales(const ProductArgs& a, const uint8_t* row, int half) {
  const bool wide = a.scale == ScaleType::f32;
  const int at = Group == 32 ? half : 0;
  if (Group == 64 && a.group == 128)
    return twice(wide ? *reinterpret_cast<const float2*>(row)
                      : widen(*reinterpret_cast<const uint32_t*>(row), a.scale));
  return wide ? reinterpret_cast<const float4*>(row)[at] : widen(reinterpret_cast<const uint2*>(row)[at], a.scale);
}

/// Words of four blocks of four bits, eight rows and the eight after them.
__device__ __forceinline__ void load_words(const StageView& stage, int half_bytes, int half, uint32_t lane,
                                           uint32_t (&upper)[4], uint32_t (&lower)[4]) {
  // An octet is a word, a block 16 bytes, a stage a column: what ldmatrix deals out.
  const uint32_t from = shared_address(stage.codes) + uint32_t(stage.of_class * kHalfColumn) +
                        slab_offset(lane % 8, (uint32_t(half) * 4 + lane / 8) * 16);
  load_matrices(upper, from);
  load_matrices(lower, from + uint32_t(half_bytes));
}

/// Fragments of A: of four blocks, those registers of 16 rows that a lane holds.
template <int Bits>
__device__ __forceinline__ void load_codes(const StageView& stage, int half_bytes, int half, uint32_t lane,
                                           uint32_t (&a)[4][4]) {
  if constexpr (Bits == 4) {
    uint32_t upper[4], lower[4];
    load_words(stage, half_bytes, half, lane, upper, lower);
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      const Octet u = unpack_octet<4>(upper[block], 0), l = unpack_octet<4>(lower[block], 0);
      a[block][0] = u.even, a[block][1] = l.even, a[block][2] = u.odd, a[block][3] = l.odd;
    }
  } else {
    const uint32_t octet = lane % 4, byte = octet * Bits % 4;
    const uint32_t first = uint32_t(stage.of_class * 32 * Bits + half * 16 * Bits) + octet * Bits - byte;
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      const uint32_t at = first + uint32_t(block * 4 * Bits);
      const uint8_t* low = stage.codes + slab_offset(lane / 4, at);
      const uint8_t* high = stage.codes + slab_offset(lane / 4, at + 4);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        uint2 words;
        if constexpr (Bits == 8) {
          words = *reinterpret_cast<const uint2*>(low + row * half_bytes);
        } else {
          words.x = *reinterpret_cast<const uint32_t*>(low + row * half_bytes);
          // Past the octet, it is not used.
          words.y = Bits == 2 ? 0 : *reinterpret_cast<const uint32_t*>(high + row * half_bytes);
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
  const uint8_t *digits, *steps;  // of the stage's first 64 inputs
  int digit_bytes, step_bytes;    // to the next 64
};

/// 128·high + low digits of two rows of the weight, times the step.
__device__ __forceinline__ float2 in_steps(const int (&d)[4], float step) {
  return {float(d[0] * 128 + d[1]) * step, float(d[2] * 128 + d[3]) * step};
}
/// Adds a group: s·Σ q·x + b·Σ x, with Σ q·x in `v`.
__device__ __forceinline__ float add_group(float sum, float scale, float v, float bias, float sum_x) {
  return fmaf(bias, sum_x, fmaf(scale, v, sum));
}

/// acc += a stage. Lane 4g + t has rows g and g + 8 of the tile for rows t, t + 4, .. of x, and for each of them four
/// sums, one for every 64 of the 256 inputs: multiply_stage_one has these in four lanes.
template <int Bits, int Group, int Tiles>
__device__ __forceinline__ void multiply_stage(const ProductArgs& args, const StageView& stage, const InputView& x,
                                               uint32_t lane, float (&acc)[Tiles][4][2]) {
  const uint8_t* rows = stage.scales + int(lane / 4) * args.slab_scales;
  float scale[2][4], bias[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[4][4];
    load_codes<Bits>(stage, args.half_bytes, half, lane, a);
    if (Group == 32 || half == 0) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const uint8_t* of_row = rows + row * 8 * args.slab_scales;
        const float4 s = load_scales<Group>(args, of_row, half),
                     b = load_scales<Group>(args, of_row + args.plane, half);
        scale[row][0] = s.x, scale[row][1] = s.y, scale[row][2] = s.z, scale[row][3] = s.w;
        bias[row][0] = b.x, bias[row][1] = b.y, bias[row][2] = b.z, bias[row][3] = b.w;
      }
    }
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
      for (int group = 0; group < 2; ++group) {  // of 64 inputs, as many as share a step
        const int of_stage = half * 2 + group;
        const uint4 b = *reinterpret_cast<const uint4*>(x.digits + of_stage * x.digit_bytes + tile * 512);
        const float4 shared = *reinterpret_cast<const float4*>(x.steps + of_stage * x.step_bytes + tile * 64);
        float(&sum)[2] = acc[tile][of_stage];
        const int zero[4] = {};
        int d[4];
        multiply(d, a[group * 2], {b.x, b.y}, zero);
        if constexpr (Group == 64) {
          multiply(d, a[group * 2 + 1], {b.z, b.w}, d);
          const float2 v = in_steps(d, shared.x);
          sum[0] = add_group(sum[0], scale[0][of_stage], v.x, bias[0][of_stage], shared.y);
          sum[1] = add_group(sum[1], scale[1][of_stage], v.y, bias[1][of_stage], shared.y);
        } else {
          int e[4];
          multiply(e, a[group * 2 + 1], {b.z, b.w}, zero);
          const float2 v = in_steps(d, shared.x), w = in_steps(e, shared.x);
          const int at = group * 2;
          sum[0] = add_group(sum[0], scale[0][at], v.x, bias[0][at], shared.z);
          sum[1] = add_group(sum[1], scale[1][at], v.y, bias[1][at], shared.z);
          sum[0] = add_group(sum[0], scale[0][at + 1], w.x, bias[0][at + 1], shared.w);
          sum[1] = add_group(sum[1], scale[1][at + 1], w.y, bias[1][at + 1], shared.w);
        }
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

/// What a stage adds to a lane's sums, for one row of x.
template <int Group>
struct StageParts {
  float2 v[64 / Group];
  float scale[2][64 / Group], bias[2][64 / Group], sum[64 / Group];
};
template <int Group>
__device__ __forceinline__ void add_parts(const StageParts<Group>& p, float (&acc)[2]) {
#pragma unroll
  for (int i = 0; i < 64 / Group; ++i) {
    acc[0] = add_group(acc[0], p.scale[0][i], p.v[i].x, p.bias[0][i], p.sum[i]);
    acc[1] = add_group(acc[1], p.scale[1][i], p.v[i].y, p.bias[1][i], p.sum[i]);
  }
}
/// The same for one row of x, whose two columns of digits leave six free: columns 2j and 2j + 1 take the digits of
/// group j of the stage and zeros for the others, so that lane 4g + t has the sum of group t and needs its scales only.
template <int Bits, int Group, bool Wide>
__device__ __forceinline__ StageParts<Group> parts_of_one(const ProductArgs& args, const StageView& stage,
                                                          const InputView& x, uint32_t lane) {
  const uint4 digits = *reinterpret_cast<const uint4*>(x.digits);
  const float4 shared = *reinterpret_cast<const float4*>(x.steps);
  const uint32_t own = lane / 8, group = lane % 4;
  const uint32_t first = Group == 32 ? group * 2 : (args.group == 128 ? group / 2 : group);
  const uint8_t* rows = stage.scales + int(lane / 4) * args.slab_scales;
  StageParts<Group> p;
#pragma unroll
  for (uint32_t row = 0; row < 2; ++row) {
    const ScaleRow<Wide> s = {rows + int(row * 8) * args.slab_scales, args.scale == ScaleType::bf16};
    const ScaleRow<Wide> b = {s.at + args.plane, s.bf16};
#pragma unroll
    for (uint32_t i = 0; i < 64 / Group; ++i) p.scale[row][i] = s[first + i], p.bias[row][i] = b[first + i];
  }
  if constexpr (Bits == 4 && Group == 64) {
    // Odd codes stay where they are and count sixteen times: even ones meet them in the end, and nothing is shifted.
    int even[2][4] = {}, odd[2][4] = {};  // of either half, so that no chain of products is long
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t u[4], l[4];
      load_words(stage, args.half_bytes, half, lane, u, l);
#pragma unroll
      for (int at = 0; at < 4; at += 2) {
        const bool mine = own == uint32_t(half * 2 + at / 2);
        const uint32_t low[4] = {u[at] & kLowCodes, l[at] & kLowCodes, u[at + 1] & kLowCodes, l[at + 1] & kLowCodes};
        const uint32_t high[4] = {u[at] & ~kLowCodes, l[at] & ~kLowCodes, u[at + 1] & ~kLowCodes,
                                  l[at + 1] & ~kLowCodes};
        multiply(even[half], low, {mine ? digits.x : 0u, mine ? digits.z : 0u}, even[half]);
        multiply(odd[half], high, {mine ? digits.y : 0u, mine ? digits.w : 0u}, odd[half]);
      }
    }
    int both[4];  // at most 16·15·64·127·128 and a little, and whole sixteens: a float holds it
#pragma unroll
    for (int i = 0; i < 4; ++i) both[i] = (even[0][i] + even[1][i]) * 16 + (odd[0][i] + odd[1][i]);
    p.v[0] = in_steps(both, shared.x * 0.0625f), p.sum[0] = shared.y;
    return p;
  }
  int d[2][4] = {};  // first and second blocks of all groups
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[4][4];
    load_codes<Bits>(stage, args.half_bytes, half, lane, a);
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      const bool mine = own == uint32_t(half * 2 + block / 2);
      const uint2 b = {mine ? (block % 2 == 0 ? digits.x : digits.z) : 0u,
                       mine ? (block % 2 == 0 ? digits.y : digits.w) : 0u};
      multiply(d[block % 2], a[block], b, d[block % 2]);
    }
  }
  if constexpr (Group == 64) {
    const int both[4] = {d[0][0] + d[1][0], d[0][1] + d[1][1], d[0][2] + d[1][2], d[0][3] + d[1][3]};
    p.v[0] = in_steps(both, shared.x), p.sum[0] = shared.y;
  } else {
    p.v[0] = in_steps(d[0], shared.x), p.sum[0] = shared.z;
    p.v[1] = in_steps(d[1], shared.x), p.sum[1] = shared.w;
  }
  return p;
}
template <int Bits, int Group>
__device__ __forceinline__ void multiply_stage_one(const ProductArgs& args, const StageView& stage, const InputView& x,
                                                   uint32_t lane, float (&acc)[2]) {
  if (args.scale == ScaleType::f32)
    add_parts<Group>(parts_of_one<Bits, Group, true>(args, stage, x, lane), acc);
  else
    add_parts<Group>(parts_of_one<Bits, Group, false>(args, stage, x, lane), acc);
}
/// Two stages side by side; scales of 16 bits.
template <int Bits, int Group>
__device__ __forceinline__ void multiply_stages_one(const ProductArgs& args, const StageView& stage,
                                                    const StageView& second, const InputView& x, const InputView& later,
                                                    uint32_t lane, float (&acc)[2]) {
  const StageParts<Group> own = parts_of_one<Bits, Group, false>(args, stage, x, lane),
                          next = parts_of_one<Bits, Group, false>(args, second, later, lane);
  add_parts<Group>(own, acc);
  add_parts<Group>(next, acc);
}
/// Over the four groups of a stage, which four lanes have.
__device__ __forceinline__ float over_groups(float sum) {
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

}  // namespace bumblebee::cuda
