// Sums of products along weight rows, with AVX2: pairs are summed in 16 bits, where 16·15·127 fits, but of e2m1 codes
// only 8·24·127, and rows are packed together before sums are widened, so that eight rows cost little more than their
// products. Included after int8.inl.h.
#pragma once

#include "backend/cpu/isa/row_codes_avx2.h"

/// Sums of products of 32 codes: sixteen of 16 bits for codes of four bits, else eight of 32 bits. Up to six bits, a
/// pair of products fits 16.
template <class Codes>
BB_INLINE __m256i row_part(__m256i codes, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (Codes::kBits > 6) {
    const __m256i mask = _mm256_set1_epi8(15), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(codes, mask), x), ones),
                            _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16)));
  }
  const __m256i pairs = _mm256_maddubs_epi16(codes, x);
  return Codes::kNibbles ? pairs : _mm256_madd_epi16(pairs, ones);
}
template <class Codes>
BB_INLINE __m256i add_parts(__m256i a, __m256i b) {
  return Codes::kNibbles ? _mm256_add_epi16(a, b) : _mm256_add_epi32(a, b);
}

/// Two blocks' parts in one register, or two such: in the end, each half has a part of the sums of four blocks.
template <class Codes>
BB_INLINE __m256i first_pair(__m256i a, __m256i b) {
  if constexpr (!Codes::kNibbles) return _mm256_hadd_epi32(a, b);
  const __m256i ones = _mm256_set1_epi16(1);
  return _mm256_madd_epi16(_mm256_packs_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)), ones);
}
template <class Codes>
BB_INLINE __m256i second_pair(__m256i a, __m256i b) {
  if constexpr (!Codes::kNibbles || Codes::kFloats) return _mm256_hadd_epi32(a, b);
  return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

/// Sums of 512 inputs of one weight row at p and both bytes of rows of x, eight blocks at a time: with blocks of 64,
/// total[d][0]; with blocks of 32, total[d][0] those of the even and total[d][1] those of the odd ones.
template <class Codes, int BLOCK, int ROWS, int PLANES>
BB_INLINE void byte_sums(const uint8_t* p, const int8_t* const (&x)[PLANES], size_t stride,
                         __m256i (&total)[PLANES][kQuantGroup / BLOCK][ROWS]) {
  // Where the two halves of 64 codes lie apart in different blocks, a register's own halves are blocks instead.
  constexpr bool kHalves = BLOCK == 32 && Codes::kNibbles;
  constexpr int kParts = BLOCK == 32 && !kHalves ? 2 : 1;
  using Parts = __m256i[PLANES][kParts][ROWS];
  const auto parts = [&](auto at, Parts& part) __attribute__((always_inline)) {
    const RowCodes c = row_codes<Codes>(p + at * (Codes::kNibbles ? 32 : 64));
    constexpr int kFirst = Codes::kNibbles ? at / 2 * kNibbleChunk + at % 2 * 32 : at * kQuantGroup,
                  kSecond = Codes::kNibbles ? kFirst + kNibbleChunk / 2 : kFirst + 32;
    unroll<PLANES>(BB_BODY(d) {
      unroll<ROWS>(BB_BODY(r) {
        const int8_t* v = x[d] + size_t(r) * stride;
        const __m256i a = row_part<Codes>(c.lo, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + kFirst))),
                      b = row_part<Codes>(c.hi, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + kSecond)));
        if constexpr (kParts == 1) {
          part[d][0][r] = add_parts<Codes>(a, b);
        } else {
          part[d][0][r] = a;
          part[d][1][r] = b;
        }
      });
    });
  };
  __m256i sum[2][PLANES][kParts][ROWS];
  unroll<2>(BB_BODY(half) {
    __m256i two[2][PLANES][kParts][ROWS];
    unroll<2>(BB_BODY(m) {
      Parts a, b;
      parts(Index<4 * half + 2 * m>(), a);
      parts(Index<4 * half + 2 * m + 1>(), b);
      unroll<PLANES>(BB_BODY(d) {
        unroll<ROWS>(BB_BODY(r) {
          unroll<kParts>(BB_BODY(u) { two[m][d][u][r] = first_pair<Codes>(a[d][u][r], b[d][u][r]); });
        });
      });
    });
    unroll<PLANES>(BB_BODY(d) {
      unroll<ROWS>(BB_BODY(r) {
        unroll<kParts>(BB_BODY(u) { sum[half][d][u][r] = second_pair<Codes>(two[0][d][u][r], two[1][d][u][r]); });
      });
    });
  });
  unroll<PLANES>(BB_BODY(d) {
    unroll<ROWS>(BB_BODY(r) {
      if constexpr (kHalves) {
        total[d][0][r] = _mm256_permute2x128_si256(sum[0][d][0][r], sum[1][d][0][r], 0x20);
        total[d][1][r] = _mm256_permute2x128_si256(sum[0][d][0][r], sum[1][d][0][r], 0x31);
      } else {
        unroll<kParts>(BB_BODY(u) {
          total[d][u][r] = _mm256_add_epi32(_mm256_permute2x128_si256(sum[0][d][u][r], sum[1][d][u][r], 0x20),
                                            _mm256_permute2x128_si256(sum[0][d][u][r], sum[1][d][u][r], 0x31));
        });
      }
    });
  });
}

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i. A second half past
/// `inputs` is left out: its sums are zero.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  constexpr int kParts = kQuantGroup / BLOCK, kTimes = 2 / kParts;  // 512 inputs are eight blocks or sixteen
  __m256i out[ROWS][2];
#pragma GCC unroll 1
  for (int half = 0; half < kTimes; ++half) {
    if (half > 0 && inputs <= 512) {
      unroll<ROWS>(BB_BODY(r) { out[r][1] = _mm256_setzero_si256(); });
      break;
    }
    __m256i total[2][kParts][ROWS];
    const int8_t* const bytes[2] = {x.low + half * 512, x.high + half * 512};
    byte_sums<Codes, BLOCK, ROWS, 2>(p + half * (Codes::kNibbles ? 256 : 512), bytes, x.stride, total);
    unroll<ROWS>(BB_BODY(r) {
      __m256i whole[kParts];
      unroll<kParts>(BB_BODY(u) { whole[u] = _mm256_add_epi32(total[0][u][r], _mm256_slli_epi32(total[1][u][r], 7)); });
      if constexpr (kParts == 1) {
        out[r][half] = whole[0];
      } else {
        const __m256i low = _mm256_unpacklo_epi32(whole[0], whole[1]), high = _mm256_unpackhi_epi32(whole[0], whole[1]);
        out[r][0] = _mm256_permute2x128_si256(low, high, 0x20);
        out[r][1] = _mm256_permute2x128_si256(low, high, 0x31);
      }
    });
  }
  unroll<ROWS>(BB_BODY(r) { sum[r] = {out[r][0], out[r][1]}; });
}
