// Sums of products along weight rows, with AVX-VNNI: one instruction multiplies bytes of any width and sums four, so
// that both bytes of x are one sum before rows are packed together. Included after int8.inl.h.
#pragma once

#include "backend/cpu/isa/row_codes_avx2.h"

BB_INLINE __m256i add_dot(__m256i sum, __m256i codes, const int8_t* x) {
  return _mm256_dpbusd_avx_epi32(sum, codes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
/// Sums of low bytes, and 128 times those of high ones.
BB_INLINE __m256i both_bytes(__m256i low, __m256i high) { return _mm256_add_epi32(low, _mm256_slli_epi32(high, 7)); }

/// Sums of 512 inputs of one weight row at p and rows of x, eight blocks at a time: with blocks of 64, total[0]; with
/// blocks of 32, total[0] those of the even and total[1] those of the odd ones.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void eight_sums(const uint8_t* p, const int8_t* low, const int8_t* high, size_t stride,
                          __m256i (&total)[kQuantGroup / BLOCK][ROWS]) {
  // Where the two halves of 64 codes lie apart in different blocks, a register's own halves are blocks instead.
  constexpr bool kHalves = BLOCK == 32 && Codes::kNibbles;
  constexpr int kParts = BLOCK == 32 && !kHalves ? 2 : 1;
  const auto parts = [&](auto at, __m256i(&part)[kParts][ROWS]) __attribute__((always_inline)) {
    const RowCodes c = row_codes<Codes>(p + at * (Codes::kNibbles ? 32 : 64));
    constexpr int kFirst = Codes::kNibbles ? at / 2 * kNibbleChunk + at % 2 * 32 : at * kQuantGroup,
                  kSecond = Codes::kNibbles ? kFirst + kNibbleChunk / 2 : kFirst + 32;
    const __m256i none = _mm256_setzero_si256();
    unroll<ROWS>(BB_BODY(r) {
      const int8_t *const l = low + size_t(r) * stride, *const h = high + size_t(r) * stride;
      if constexpr (kParts == 1) {
        part[0][r] = both_bytes(add_dot(add_dot(none, c.lo, l + kFirst), c.hi, l + kSecond),
                                add_dot(add_dot(none, c.lo, h + kFirst), c.hi, h + kSecond));
      } else {
        part[0][r] = both_bytes(add_dot(none, c.lo, l + kFirst), add_dot(none, c.lo, h + kFirst));
        part[1][r] = both_bytes(add_dot(none, c.hi, l + kSecond), add_dot(none, c.hi, h + kSecond));
      }
    });
  };
  __m256i sum[2][kParts][ROWS];
  unroll<2>(BB_BODY(half) {
    __m256i two[2][kParts][ROWS];
    unroll<2>(BB_BODY(m) {
      __m256i a[kParts][ROWS], b[kParts][ROWS];
      parts(Index<4 * half + 2 * m>(), a);
      parts(Index<4 * half + 2 * m + 1>(), b);
      unroll<kParts>(BB_BODY(u) { unroll<ROWS>(BB_BODY(r) { two[m][u][r] = _mm256_hadd_epi32(a[u][r], b[u][r]); }); });
    });
    unroll<kParts>(
        BB_BODY(u) { unroll<ROWS>(BB_BODY(r) { sum[half][u][r] = _mm256_hadd_epi32(two[0][u][r], two[1][u][r]); }); });
  });
  unroll<ROWS>(BB_BODY(r) {
    if constexpr (kHalves) {
      total[0][r] = _mm256_permute2x128_si256(sum[0][0][r], sum[1][0][r], 0x20);
      total[1][r] = _mm256_permute2x128_si256(sum[0][0][r], sum[1][0][r], 0x31);
    } else {
      unroll<kParts>(BB_BODY(u) {
        total[u][r] = _mm256_add_epi32(_mm256_permute2x128_si256(sum[0][u][r], sum[1][u][r], 0x20),
                                       _mm256_permute2x128_si256(sum[0][u][r], sum[1][u][r], 0x31));
      });
    }
  });
}

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i. A second half past
/// `inputs` is left out: its sums are zero.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  if constexpr (BLOCK == 64) {
    __m256i first[1][ROWS], second[1][ROWS];
    eight_sums<Codes, BLOCK, ROWS>(p, x.low, x.high, x.stride, first);
    if (inputs > 512) {
      eight_sums<Codes, BLOCK, ROWS>(p + (Codes::kNibbles ? 256 : 512), x.low + 512, x.high + 512, x.stride, second);
    } else {
      unroll<ROWS>(BB_BODY(r) { second[0][r] = _mm256_setzero_si256(); });
    }
    unroll<ROWS>(BB_BODY(r) { sum[r] = {first[0][r], second[0][r]}; });
  } else {
    __m256i total[2][ROWS];
    eight_sums<Codes, BLOCK, ROWS>(p, x.low, x.high, x.stride, total);
    unroll<ROWS>(BB_BODY(r) {
      const __m256i low = _mm256_unpacklo_epi32(total[0][r], total[1][r]),
                    high = _mm256_unpackhi_epi32(total[0][r], total[1][r]);
      sum[r] = {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
    });
  }
}
