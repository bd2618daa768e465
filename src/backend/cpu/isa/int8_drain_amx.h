// What leaves the tiles: int32 sums of a block, scaled and added up by vectors. Included before int8_panel_amx.h.
#pragma once

#include "backend/cpu/isa/tiles_amx.h"

/// Sums of a block, four tiles of [16 rows of x][16 weight rows]: of both bytes, or of low and of high ones apart.
struct alignas(64) BlockSums {
  int32_t low[4 * 256], high[4 * 256];
};

/// Of blocks at work and being scaled, by whether low and high bytes are summed apart; and one that nobody wants.
inline constexpr int kJoinedSums = 3, kApartSums = 4, kBlockSums = kJoinedSums + kApartSums + 1;
static_assert(kTileScratch >= sizeof(BlockSums) * kBlockSums);

inline I32x16 shift_left(I32x16 a, int bits) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits)); }

/// One or two blocks whose sums are to be scaled, as addresses for the first row of x and the first weight row.
struct Drain {
  const int32_t *low[2], *high[2];
  const float *scale[2], *bias[2];
  const float* factors[2];  // [rows of x][2]: scale, and scale·Σ of both bytes
  const uint8_t* shifts;    // the second block follows
  size_t block_stride;      // of shifts, from row to row of x
  float *lane, *sums;       // rows are kInt8Cols apart
  int blocks;
  bool alone;       // each block is a lane
  bool start, end;  // of a lane
  bool split;       // high bytes' sums are apart
};

/// ROWS rows of x times two tiles of weight rows.
template <int ROWS, int BLOCKS, bool ALONE, bool SPLIT>
BB_INLINE void drain_rows(const Drain& d, int col, int row) {
  F32x16 acc[ROWS][2];
  float* const sums = d.sums + size_t(row) * kInt8Cols + 16 * col;
  float* const lane = d.lane + size_t(row) * kInt8Cols + 16 * col;
  if (ALONE || !d.start) {
    const float* from = ALONE ? sums : lane;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) acc[r][c] = load(from + r * kInt8Cols + 16 * c);
    }
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) acc[r][c] = zero();
    }
  }
  const size_t at = size_t(row / 16 * 2 + col) * 256 + size_t(row % 16) * 16;  // rows 16 on: of the second row of tiles
#pragma GCC unroll 2
  for (int b = 0; b < BLOCKS; ++b) {
    F32x16 scale[2], bias[2];
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      scale[c] = load(d.scale[b] + 16 * (col + c));
      bias[c] = load(d.bias[b] + 16 * (col + c));
    }
    const float* factors = d.factors[b] + 2 * row;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 xs = set1(factors[2 * r]), sum = set1(factors[2 * r + 1]);
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        I32x16 total = load_int(d.low[b] + at + 16 * r + 256 * c);
        if constexpr (SPLIT) {
          const int shift = d.shifts[size_t(row + r) * d.block_stride + size_t(b)];
          total = add(total, shift_left(load_int(d.high[b] + at + 16 * r + 256 * c), shift));
        }
        const F32x16 scaled = mul(to_float(total), scale[c]);
        if constexpr (ALONE) {
          acc[r][c] = add(acc[r][c], fma(bias[c], sum, fma(scaled, xs, zero())));
        } else {
          acc[r][c] = fma(bias[c], sum, fma(scaled, xs, acc[r][c]));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      float* out = sums + r * kInt8Cols + 16 * c;
      if (ALONE) {
        store(out, acc[r][c]);
      } else if (d.end) {
        store(out, add(load(out), acc[r][c]));
      } else {
        store(lane + r * kInt8Cols + 16 * c, acc[r][c]);
      }
    }
  }
}

/// Of its own, so that a step is not as long as all kinds of steps.
template <int ROWS, int BLOCKS, bool ALONE, bool SPLIT>
[[gnu::noinline]] void drain_apart(const Drain& d, int col, int row) {
  drain_rows<ROWS, BLOCKS, ALONE, SPLIT>(d, col, row);
}

template <int BLOCKS, bool ALONE, bool SPLIT>
BB_INLINE int drain_some_rows(const Drain& d, int col, int row, int left) {
  if (left >= 4) return drain_apart<4, BLOCKS, ALONE, SPLIT>(d, col, row), 4;
  if (left >= 2) return drain_apart<2, BLOCKS, ALONE, SPLIT>(d, col, row), 2;
  return drain_apart<1, BLOCKS, ALONE, SPLIT>(d, col, row), 1;
}

/// Some rows of x from `row` on, of `left` that are there, times the weight rows of tile `col` and the next. Returns
/// how many.
inline int drain_some(const Drain& d, int col, int row, int left) {
  if (d.split) {
    if (d.alone) return drain_some_rows<2, true, true>(d, col, row, left);
    if (d.blocks == 2) return drain_some_rows<2, false, true>(d, col, row, left);
    return drain_some_rows<1, false, true>(d, col, row, left);
  }
  if (d.alone) return drain_some_rows<2, true, false>(d, col, row, left);
  if (d.blocks == 2) return drain_some_rows<2, false, false>(d, col, row, left);
  return drain_some_rows<1, false, false>(d, col, row, left);
}
