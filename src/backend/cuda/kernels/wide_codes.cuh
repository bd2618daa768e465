// W of products of many rows (matmul_wide.cuh): from MLX's bytes to fragments of f16 numbers.
#pragma once

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/float_codes.cuh"
#include "backend/cuda/kernels/unpack.h"
#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

/// One lane's codes of a block of 128 columns of two rows: octets 4t to 4t + 3. Raw words, so that loads need not be
/// waited for.
template <int Bits, Code Kind>
struct WideCodes {
  uint32_t words[2][Bits];  // [half][32 columns]

  __device__ __forceinline__ void load(int half, const uint8_t* at) {
    uint32_t(&w)[Bits] = words[half];
    if constexpr (Bits % 4 == 0) {
#pragma unroll
      for (int i = 0; i < Bits; i += 4)
        asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w[i]), "=r"(w[i + 1]), "=r"(w[i + 2]), "=r"(w[i + 3])
                     : "l"(at + 4 * i));
    } else if constexpr (Bits % 2 == 0) {
#pragma unroll
      for (int i = 0; i < Bits; i += 2)
        asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(w[i]), "=r"(w[i + 1]) : "l"(at + 4 * i));
    } else {
#pragma unroll
      for (int i = 0; i < Bits; ++i) asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(w[i]) : "l"(at + 4 * i));
    }
  }
  /// Fragments of the block's four k16 steps of tile `which`: registers `half` (row g or g + 8) and `half` + 2 of each.
  __device__ __forceinline__ void fragments(uint32_t (&a)[4][4], int which, int half, __half2 scale,
                                            __half2 bias) const {
    const uint32_t(&w)[Bits] = words[half];
    const __half2 less = __float2half2_rn(-1024.0f);
    const auto value = [&](__half2 code) {
      const __half2 v = __hfma2(code, scale, bias);
      return reinterpret_cast<const uint32_t&>(v);
    };
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const int octet = 2 * which + o;
      if constexpr (Kind == Code::e2m1) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          a[2 * o + m][half] = scaled_code(halves_of<Kind>(w[octet] >> (8 * m)), scale);
          a[2 * o + m][half + 2] = scaled_code(halves_of<Kind>(w[octet] >> (8 * m + 4)), scale);
        }
      } else if constexpr (Bits == 4) {
        const __half2 sixteenth = __float2half2_rn(0.0625f), less64 = __float2half2_rn(-64.0f);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t v = w[octet] >> (8 * m);
          a[2 * o + m][half] = value(sum(pick_or<0x000f000fu>(v, 0x64006400u), less));
          const uint32_t high = pick_or<0x00f000f0u>(v, 0x64006400u);  // 1024 + 16 codes
          a[2 * o + m][half + 2] = value(__hfma2(reinterpret_cast<const __half2&>(high), sixteenth, less64));
        }
      } else {
        const int first = octet * Bits / 4, shift = octet * 8 * Bits % 32;
        const uint32_t second = first + 1 < Bits ? w[first + 1] : 0;
        const Octet v = unpack_octet<Bits>(funnel(w[first], second, shift), Bits == 8 ? second : second >> shift);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t pick = m == 0 ? 0x4240u : 0x4341u;
          a[2 * o + m][half] = value(sum(__byte_perm(v.even, 0x64646464u, pick), less));
          a[2 * o + m][half + 2] = value(sum(__byte_perm(v.odd, 0x64646464u, pick), less));
        }
      }
    }
  }
  /// What is made of the codes is made behind this point.
  __device__ __forceinline__ void keep_order() {
#pragma unroll
    for (auto& half : words)
#pragma unroll
      for (uint32_t& w : half) asm volatile("" : "+r"(w)::"memory");
  }

 private:
  /// Float codes, at their size, times the scale.
  static __device__ __forceinline__ uint32_t scaled_code(uint32_t small, __half2 scale) {
    const __half2 code = __hmul2(reinterpret_cast<const __half2&>(small), __float2half2_rn(power_of(Code::e2m1)));
    const __half2 v = __hmul2(code, scale);
    return reinterpret_cast<const uint32_t&>(v);
  }
  /// (a & Mask) | b as one instruction.
  template <uint32_t Mask>
  static __device__ __forceinline__ uint32_t pick_or(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "n"(Mask), "r"(b));
    return d;
  }
  static __device__ __forceinline__ __half2 sum(uint32_t a, __half2 b) {
    return __hadd2(reinterpret_cast<const __half2&>(a), b);
  }
};

__device__ __forceinline__ uint16_t load_raw(const void* p, uint32_t i) {
  uint16_t v;
  asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(v) : "l"(static_cast<const uint16_t*>(p) + i));
  return v;
}

/// Scales, or biases, of four groups that follow each other in a row.
struct FourGroups {
  uint2 raw;

  /// `row`: the place of the row's first group; `group`: a multiple of four. Where a row has other than whole fours,
  /// each is loaded by itself, and the last one again for those behind the end.
  __device__ __forceinline__ void load(const void* p, uint32_t row, int group, int groups, bool fours) {
    if (fours) {
      asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];"
                   : "=r"(raw.x), "=r"(raw.y)
                   : "l"(static_cast<const uint16_t*>(p) + (row + uint32_t(group))));
      return;
    }
    uint32_t one[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) one[i] = load_raw(p, row + uint32_t(min(group + i, groups - 1)));
    raw = {one[0] | one[1] << 16, one[2] | one[3] << 16};
  }
  /// Both halves: the one of group `which` times `inverse`.
  __device__ __forceinline__ __half2 pair(int which, bool bf16, float inverse) const {
    const uint32_t at = __byte_perm(raw.x, raw.y, 0x1032u + uint32_t(which) * 0x2222u) & 0xffff0000u;
    const float v = bf16 ? __uint_as_float(at) : __half2float(__ushort_as_half(uint16_t(at >> 16)));
    return __float2half2_rn(v * inverse);
  }
};

/// Where a lane's rows of W lie, and what it has asked for of them: its codes of the next block of columns.
template <int Bits, Code Kind>
struct WideSource {
  static constexpr uint32_t kLaneBytes = 4 * Bits, kColumnsBytes = 4 * kLaneBytes;
  const uint8_t* codes;
  const void *scales, *biases;
  uint32_t codes_at[2], group_at[2], row_bytes;
  float inverse[2];  // of the row's unit
  int groups, shift;
  bool bf16_scale, bf16_bias, fours;
  WideCodes<Bits, Kind> next;
  FourGroups scale[2], bias[2];
  __half2 s[2], b[2];  // of the block whose fragments are made

  /// n: of the lane's first row; the other is eight after it. Rows beyond the last are not stored.
  __device__ __forceinline__ void begin(const WeightView& w, uint32_t before, int n, int t) {
    codes = w.codes, scales = w.scales, biases = w.biases;
    row_bytes = uint32_t(w.row_bytes);
    groups = w.in / w.group, shift = w.group == 128 ? 2 : w.group == 64 ? 1 : 0;  // of 32 columns
    bf16_scale = w.scale == Element::bf16, bf16_bias = w.bias == Element::bf16;
    const uint64_t places =
        reinterpret_cast<uint64_t>(w.scales) | (Kind == Code::uint ? reinterpret_cast<uint64_t>(w.biases) : 0);
    fours = w.scale_row % 4 == 0 && places % 8 == 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = before + uint32_t(min(n + h * 8, w.out - 1));
      codes_at[h] = row * row_bytes;
      group_at[h] = row * uint32_t(w.scale_row);
      inverse[h] = __uint_as_float(0x7f000000u - __float_as_uint(__ldg(w.units + row)));
    }
    load(0, t);
  }
  /// Block k. Behind a row's end a lane takes the first lane's columns: x is zero there.
  __device__ __forceinline__ void load(int k, int t) {
    const uint32_t first = uint32_t(k) * kColumnsBytes, own = first + uint32_t(t) * kLaneBytes;
    const uint32_t at = own < row_bytes ? own : first;
#pragma unroll
    for (int h = 0; h < 2; ++h) next.load(h, codes + (codes_at[h] + at));
    const int group = 4 * k >> shift;
    if ((group & 3) != 0) return;  // of four that were asked for
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h].load(scales, group_at[h], group, groups, fours);
      if (Kind == Code::uint) bias[h].load(biases, group_at[h], group, groups, fours);
    }
  }
  /// Tile `which` of block k as fragments. After the second one the next block is asked for.
  __device__ __forceinline__ void fragments(uint32_t (&a)[4][4], int which, int k, int blocks, int t) {
    if (which == 0) {
      const int of = ((4 * k + t) >> shift) & 3;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        s[h] = scale[h].pair(of, bf16_scale, inverse[h]);
        if (Kind == Code::uint) b[h] = bias[h].pair(of, bf16_bias, inverse[h]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) next.fragments(a, which, h, s[h], b[h]);
    if (which == 1 && k + 1 < blocks) load(k + 1, t);
  }
};

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
