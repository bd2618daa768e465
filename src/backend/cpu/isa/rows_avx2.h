// Sums of products along weight rows, with AVX2: pairs are summed in 16 bits, where 4·2·15·127 fits, and rows are
// packed together before sums are widened, so that eight rows cost little more than their products. Included after
// int8.inl.h.
#pragma once

struct RowCodes {
  __m256i lo, hi;
};

/// 64 codes of a row as bytes, in the order of QuantLayout.
template <int BITS, int UNIT>
BB_INLINE RowCodes row_codes(const uint8_t* p) {
  if constexpr (BITS == 4) {
    const __m256i mask = _mm256_set1_epi8(15), c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i even = _mm256_and_si256(c, mask), odd = _mm256_and_si256(_mm256_srli_epi16(c, 4), mask);
    if constexpr (UNIT == 64) return {even, odd};
    return {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
  } else if constexpr (BITS == 8) {
    const auto* at = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  } else {
    __m128i q[4];
    unroll<4>(BB_BODY(i) { q[i] = codes16<BITS>(p + 2 * BITS * i); });
    return {_mm256_set_m128i(q[1], q[0]), _mm256_set_m128i(q[3], q[2])};
  }
}

/// Sums of products of 32 or 64 codes: sixteen of 16 bits for small codes, else eight of 32 bits.
template <int BITS>
BB_INLINE __m256i row_part(__m256i codes, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (BITS == 8) {
    const __m256i mask = _mm256_set1_epi8(15), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(codes, mask), x), ones),
                            _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16)));
  }
  const __m256i pairs = _mm256_maddubs_epi16(codes, x);
  return BITS > 4 ? _mm256_madd_epi16(pairs, ones) : pairs;
}
template <int BITS>
BB_INLINE __m256i add_parts(__m256i a, __m256i b) {
  return BITS > 4 ? _mm256_add_epi32(a, b) : _mm256_add_epi16(a, b);
}

/// Two rows' parts in one register, or two such: in the end, each half has a part of the sum of four rows.
template <int BITS>
BB_INLINE __m256i first_pair(__m256i a, __m256i b) {
  if constexpr (BITS > 4) return _mm256_hadd_epi32(a, b);
  const __m256i ones = _mm256_set1_epi16(1);
  return _mm256_madd_epi16(_mm256_packs_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)), ones);
}
template <int BITS>
BB_INLINE __m256i second_pair(__m256i a, __m256i b) {
  if constexpr (BITS > 4) return _mm256_hadd_epi32(a, b);
  return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

/// total[u][r] lane i = the sum over unit u of codes of row i, at p + i·stride, times x row r.
template <int BITS, int UNIT, int ROWS>
BB_INLINE void row_sums(const uint8_t* p, size_t stride, const int8_t* x, size_t x_stride,
                        I16 (&total)[kQuantGroup / UNIT][ROWS]) {
  constexpr int kUnits = kQuantGroup / UNIT;
  const auto load_x = [&](int r, int i) __attribute__((always_inline)) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + size_t(r) * x_stride) + i);
  };
  const auto parts = [&](const uint8_t* row, __m256i(&out)[kUnits][ROWS]) __attribute__((always_inline)) {
    const RowCodes c = row_codes<BITS, UNIT>(row);
    unroll<ROWS>(BB_BODY(r) {
      const __m256i a = row_part<BITS>(c.lo, load_x(r, 0)), b = row_part<BITS>(c.hi, load_x(r, 1));
      if constexpr (kUnits == 1) {
        out[0][r] = add_parts<BITS>(a, b);
      } else {
        out[0][r] = a;
        out[1][r] = b;
      }
    });
  };
  unroll<2>(BB_BODY(half) {
    __m256i four[2][kUnits][ROWS];
    unroll<2>(BB_BODY(q) {
      __m256i two[2][kUnits][ROWS];
      unroll<2>(BB_BODY(m) {
        __m256i a[kUnits][ROWS], b[kUnits][ROWS];
        parts(p, a);
        parts(p + stride, b);
        p += 2 * stride;
        unroll<ROWS>(BB_BODY(r) { unroll<kUnits>(BB_BODY(u) { two[m][u][r] = first_pair<BITS>(a[u][r], b[u][r]); }); });
      });
      unroll<ROWS>(BB_BODY(r) {
        unroll<kUnits>(BB_BODY(u) { four[q][u][r] = second_pair<BITS>(two[0][u][r], two[1][u][r]); });
      });
    });
    unroll<ROWS>(BB_BODY(r) {
      unroll<kUnits>(BB_BODY(u) {
        const __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(four[0][u][r], four[1][u][r], 0x20),
                                             _mm256_permute2x128_si256(four[0][u][r], four[1][u][r], 0x31));
        (half == 0 ? total[u][r].lo : total[u][r].hi) = sum;
      });
    });
  });
}
