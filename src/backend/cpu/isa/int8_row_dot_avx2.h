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

/// Sums of 512 inputs of one weight row at p and PLANES bytes of rows of x, low ones and, where outliers have no places
/// of their own (outliers_avx2.h), high ones; seen(i, codes) is told where part i of the codes lies. Eight blocks at a
/// time: with blocks of 64, total[d][0]; with blocks of 32, total[d][0] those of the even and total[d][1] those of the
/// odd ones.
template <class Codes, int BLOCK, int ROWS, int PLANES, class Seen>
BB_INLINE void byte_sums(const uint8_t* p, const int8_t* const (&x)[PLANES], size_t stride,
                         __m256i (&total)[PLANES][kQuantGroup / BLOCK][ROWS], const Seen& seen) {
  // Where the two halves of 64 codes lie apart in different blocks, a register's own halves are blocks instead.
  constexpr bool kHalves = BLOCK == 32 && Codes::kNibbles;
  constexpr int kParts = BLOCK == 32 && !kHalves ? 2 : 1;
  using Parts = __m256i[PLANES][kParts][ROWS];
  const auto parts = [&](auto at, Parts& part) __attribute__((always_inline)) {
    const uint8_t* const codes = p + at * (Codes::kNibbles ? 32 : 64);
    const RowCodes c = row_codes<Codes>(codes);
    seen(at, codes);
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

/// What high bytes add to the sums of eight groups of codes of four bits, from the bytes of codes that were picked:
/// high[0] of eight blocks, or, with blocks of 32, of the even ones, and high[1] of the odd ones.
template <class Codes, int BLOCK>
BB_INLINE void high_sums(__m256i picked, const OutlierGroups& groups, __m256i (&high)[kQuantGroup / BLOCK]) {
  const RowCodes c = halves_of<Codes>(picked);
  // A word has a group's products, in the half of the register that its codes came from.
  const auto load = [](const int8_t* v) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v)); };
  const __m256i words =
      _mm256_add_epi16(_mm256_maddubs_epi16(c.lo, load(groups.low)), _mm256_maddubs_epi16(c.hi, load(groups.high)));
  const __m128i first = _mm256_castsi256_si128(words), second = _mm256_extracti128_si256(words, 1);
  if constexpr (BLOCK == 64) {
    high[0] = _mm256_slli_epi32(_mm256_cvtepi16_epi32(_mm_add_epi16(first, second)), 7);
  } else {
    high[0] = _mm256_slli_epi32(_mm256_cvtepi16_epi32(first), 7);
    high[1] = _mm256_slli_epi32(_mm256_cvtepi16_epi32(second), 7);
  }
}

/// Sums of 512 inputs of one weight row at p times ROWS rows of x, both bytes, as byte_sums() has them. `half` is which
/// 512 inputs of a stripe.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void both_sums(const uint8_t* p, const RowBytes& x, int half, __m256i (&whole)[kQuantGroup / BLOCK][ROWS]) {
  constexpr int kParts = kQuantGroup / BLOCK;
  if constexpr (Codes::kNibbles) {
    const auto groups = [&](int r) -> const OutlierGroups& {
      return reinterpret_cast<const OutlierGroups*>(x.high + size_t(r) * x.stride)[half];
    };
    __m256i total[1][kParts][ROWS], picked[ROWS];
    const int8_t* const bytes[1] = {x.low + half * 512};
    byte_sums<Codes, BLOCK, ROWS, 1>(
        p, bytes, x.stride, total, BB_BODY(at, const uint8_t* codes) {
          const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
          unroll<ROWS>(BB_BODY(r) {
            const __m256i found =
                _mm256_shuffle_epi8(c, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(groups(r).pick[at])));
            picked[r] = at == 0 ? found : _mm256_or_si256(picked[r], found);
          });
        });
    unroll<ROWS>(BB_BODY(r) {
      __m256i high[kParts];
      high_sums<Codes, BLOCK>(picked[r], groups(r), high);
      unroll<kParts>(BB_BODY(u) { whole[u][r] = _mm256_add_epi32(total[0][u][r], high[u]); });
    });
  } else {
    __m256i total[2][kParts][ROWS];
    const int8_t* const bytes[2] = {x.low + half * 512, x.high + half * 512};
    byte_sums<Codes, BLOCK, ROWS, 2>(p, bytes, x.stride, total, [](auto, const uint8_t*) {});
    unroll<ROWS>(BB_BODY(r) {
      unroll<kParts>(
          BB_BODY(u) { whole[u][r] = _mm256_add_epi32(total[0][u][r], _mm256_slli_epi32(total[1][u][r], 7)); });
    });
  }
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
    __m256i whole[kParts][ROWS];
    both_sums<Codes, BLOCK, ROWS>(p + half * (Codes::kNibbles ? 256 : 512), x, half, whole);
    unroll<ROWS>(BB_BODY(r) {
      if constexpr (kParts == 1) {
        out[r][half] = whole[0][r];
      } else {
        const __m256i low = _mm256_unpacklo_epi32(whole[0][r], whole[1][r]),
                      high = _mm256_unpackhi_epi32(whole[0][r], whole[1][r]);
        out[r][0] = _mm256_permute2x128_si256(low, high, 0x20);
        out[r][1] = _mm256_permute2x128_si256(low, high, 0x31);
      }
    });
  }
  unroll<ROWS>(BB_BODY(r) { sum[r] = {out[r][0], out[r][1]}; });
}
