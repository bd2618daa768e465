// What a warpgroup of product_rows_kernel.cuh does with a tile: codes to bytes, bytes and digits to whole sums, sums
// times scales.
#pragma once

#include <cuda_fp16.h>

#include "backend/cuda/kernels/product_rows.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

// d [64, N] = a [64, 32] of u8 · b [N, 32]ᵀ of s8, and what d was where `Add`.
#define BB_I4(d, i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define BB_I8(d, i) BB_I4(d, i), BB_I4(d, i + 4)
#define BB_I16(d, i) BB_I8(d, i), BB_I8(d, i + 8)
#define BB_I24(d, i) BB_I16(d, i), BB_I8(d, i + 16)
#define BB_I32(d, i) BB_I16(d, i), BB_I16(d, i + 16)
#define BB_INT_NAMES8 "{%0,%1,%2,%3,%4,%5,%6,%7}"
#define BB_INT_NAMES16 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define BB_INT_NAMES24 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23}"
#define BB_INT_NAMES32                                      \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define BB_INT_WGMMA(COLUMNS, COUNT, A0, A1, A2, A3, B, ADD)                                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n" COLUMNS \
               "k32.s32.u8.s8 " BB_INT_NAMES##COUNT ", {%" A0 ",%" A1 ",%" A2 ",%" A3 "}, %" B ", p;\n}"  \
               : BB_I##COUNT(d, 0)                                                                        \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(Add ? 1 : 0))
template <bool Add>
__device__ __forceinline__ void wgmma_int(int (&d)[8], const uint32_t (&a)[4], uint64_t b) {
  BB_INT_WGMMA("16", 8, "8", "9", "10", "11", "12", "13");
}
template <bool Add>
__device__ __forceinline__ void wgmma_int(int (&d)[16], const uint32_t (&a)[4], uint64_t b) {
  BB_INT_WGMMA("32", 16, "16", "17", "18", "19", "20", "21");
}
template <bool Add>
__device__ __forceinline__ void wgmma_int(int (&d)[24], const uint32_t (&a)[4], uint64_t b) {
  BB_INT_WGMMA("48", 24, "24", "25", "26", "27", "28", "29");
}
template <bool Add>
__device__ __forceinline__ void wgmma_int(int (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  BB_INT_WGMMA("64", 32, "32", "33", "34", "35", "36", "37");
}
#undef BB_INT_WGMMA
template <int Count>
__device__ __forceinline__ void keep_order(int (&d)[Count]) {
#pragma unroll
  for (int& x : d) asm volatile("" : "+r"(x)::"memory");
}

/// Sums of a lane: rows g and g + 8 of its warp's 16 outputs for rows 4j + t of x.
template <int R>
struct RowSums {
  float v[R / 4][2];
  __device__ __forceinline__ RowSums operator+(const RowSums& b) const {
    RowSums s;
#pragma unroll
    for (int j = 0; j < R / 4; ++j) s.v[j][0] = v[j][0] + b.v[j][0], s.v[j][1] = v[j][1] + b.v[j][1];
    return s;
  }
};
/// In memory: [pair of j][lane]{4}.
template <int R>
inline constexpr int kRowSumBytes = 16 * R * 4;
template <int R>
__device__ __forceinline__ RowSums<R> load_row_sums(uint32_t at, int lane) {
  RowSums<R> s;
#pragma unroll
  for (int i = 0; i < R / 8; ++i) {
    const float4 v = load_four(at + uint32_t(i * 512 + lane * 16));
    s.v[2 * i][0] = v.x, s.v[2 * i][1] = v.y, s.v[2 * i + 1][0] = v.z, s.v[2 * i + 1][1] = v.w;
  }
  return s;
}

template <bool Bf16>
__device__ __forceinline__ float scale_of(const uint2& four, int i) {
  const uint32_t pair = i < 2 ? four.x : four.y;
  if (Bf16) return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  const __half2 both = reinterpret_cast<const __half2&>(pair);
  return i % 2 == 0 ? __low2float(both) : __high2float(both);
}

/// Where a warpgroup's part of one class lies.
struct ClassView {
  uint32_t codes[kSectionSlabs];   // of the lane, for ldmatrix
  uint32_t scales[kSectionSlabs];  // of the lane's first row
  uint64_t tiles[kSectionSlabs];   // of x, as wgmma wants them
  uint32_t steps[kSectionSlabs];   // of the lane
};

/// Σ of a class over a section, of `Slabs` slabs.
template <int R, int Groups, bool Bf16, int Slabs>
__device__ __forceinline__ RowSums<R> class_sum(const ClassView& view) {
  constexpr int kCount = 4 * Slabs, kRows = R * Groups;
  uint2 scale[Slabs][2], bias[Slabs][2];
#pragma unroll
  for (int s = 0; s < Slabs; ++s)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[s][h] = load_two(view.scales[s] + uint32_t(h * kRowsHalfScales));
      bias[s][h] = load_two(view.scales[s] + uint32_t(kRowsPlane + h * kRowsHalfScales));
    }
  int d[2][R];
  uint32_t a[2][2][4];
  uint32_t w[4];
  const auto load = [&](int i) {  // of 64 inputs, the same place of both slabs one after the other
    load_matrices(w, view.codes[i % Slabs] ^ uint32_t(i / Slabs << 5));
  };
  const auto unpack = [&](int i) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      a[i % 2][b][0] = w[b] & 0x0f0f0f0fu, a[i % 2][b][1] = w[2 + b] & 0x0f0f0f0fu;
      a[i % 2][b][2] = w[b] >> 4 & 0x0f0f0f0fu, a[i % 2][b][3] = w[2 + b] >> 4 & 0x0f0f0f0fu;
    }
  };
  const auto start = [&](int i) {
    const int group = i / Slabs, slab = i % Slabs;
    const uint64_t x = view.tiles[slab] + uint64_t(group / 2 * (row_tile(kRows) >> 4) + group % 2 * 4);
    wgmma_fence();
    wgmma_int<false>(d[i % 2], a[i % 2][0], x);
    wgmma_int<true>(d[i % 2], a[i % 2][1], x + 2);
    wgmma_commit();
  };
  RowSums<R> pair, first, second;
  load(0);
  unpack(0);
  load(1);
  start(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int group = i / Slabs, slab = i % Slabs;
    if (i + 1 < kCount) {
      unpack(i + 1);
      start(i + 1);
      if (i + 2 < kCount) load(i + 2);
      wgmma_wait<1>();
    } else {
      wgmma_wait<0>();
    }
    keep_order(d[i % 2]);
    float s[2], b[2];
#pragma unroll
    for (int h = 0; h < 2; ++h)
      s[h] = scale_of<Bf16>(scale[slab][h], group), b[h] = scale_of<Bf16>(bias[slab][h], group);
#pragma unroll
    for (int jp = 0; jp < R / 8; ++jp) {
      const float4 shared = load_four(view.steps[slab] + uint32_t(group * kRows * 8 + jp * 64));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = 2 * jp + e;
        const float step = e == 0 ? shared.x : shared.z, sum_x = e == 0 ? shared.y : shared.w;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int* of = d[i % 2] + 4 * j + 2 * h;
          const float v = float(of[0] * 128 + of[1]) * step, before = slab == 0 ? 0.0f : pair.v[j][h];
          pair.v[j][h] = fmaf(b[h], sum_x, fmaf(s[h], v, before));
        }
      }
    }
    if (slab + 1 < Slabs) continue;
    if (group == 0) first = pair;
    if (group == 1) first = first + pair;
    if (group == 2) second = pair;
    if (group == 3) second = second + pair;
  }
  return first + second;
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
