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

/// Two units' parts in one register, or two such: in the end, each half has a part of the sums of four units.
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

/// Sums of kRowStep inputs of one weight row at p: out[r·out_stride + u] is that of unit u times x row r.
template <int BITS, int UNIT, int ROWS>
BB_INLINE void row_sums(const uint8_t* p, const int8_t* x, size_t x_stride, int32_t* out, size_t out_stride) {
  constexpr int kParts = kQuantGroup / UNIT;
  using Parts = __m256i[kParts][ROWS];
  const auto parts = [&](auto at, Parts& part) __attribute__((always_inline)) {
    const RowCodes c = row_codes<BITS, UNIT>(p + at * kQuantGroup * BITS / 8);
    unroll<ROWS>(BB_BODY(r) {
      const auto* v = reinterpret_cast<const __m256i*>(x + size_t(r) * x_stride + at * kQuantGroup);
      const __m256i a = row_part<BITS>(c.lo, _mm256_loadu_si256(v)),
                    b = row_part<BITS>(c.hi, _mm256_loadu_si256(v + 1));
      if constexpr (kParts == 1) {
        part[0][r] = add_parts<BITS>(a, b);
      } else {
        part[0][r] = a;
        part[1][r] = b;
      }
    });
  };
  __m256i sum[2][kParts][ROWS];
  unroll<2>(BB_BODY(half) {
    __m256i two[2][kParts][ROWS];
    unroll<2>(BB_BODY(m) {
      Parts a, b;
      parts(Index<4 * half + 2 * m>(), a);
      parts(Index<4 * half + 2 * m + 1>(), b);
      unroll<ROWS>(BB_BODY(r) { unroll<kParts>(BB_BODY(u) { two[m][u][r] = first_pair<BITS>(a[u][r], b[u][r]); }); });
    });
    unroll<ROWS>(BB_BODY(r) {
      unroll<kParts>(BB_BODY(u) { sum[half][u][r] = second_pair<BITS>(two[0][u][r], two[1][u][r]); });
    });
  });
  unroll<ROWS>(BB_BODY(r) {
    __m256i total[kParts];
    unroll<kParts>(BB_BODY(u) {
      total[u] = _mm256_add_epi32(_mm256_permute2x128_si256(sum[0][u][r], sum[1][u][r], 0x20),
                                  _mm256_permute2x128_si256(sum[0][u][r], sum[1][u][r], 0x31));
    });
    auto* to = reinterpret_cast<__m256i*>(out + size_t(r) * out_stride);
    if constexpr (kParts == 1) {
      _mm256_storeu_si256(to, total[0]);
    } else {
      const __m256i low = _mm256_unpacklo_epi32(total[0], total[1]), high = _mm256_unpackhi_epi32(total[0], total[1]);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
  });
}

/// total[u] lane i = sums[i·stride + u] for eight units and sixteen rows.
BB_INLINE void load_sums(const int32_t* sums, size_t stride, I16 (&total)[8]) {
  unroll<2>(BB_BODY(half) {
    __m256i t[8];
    unroll<8>(BB_BODY(i) {
      t[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + size_t(8 * half + i) * stride));
    });
    transpose8(t);
    unroll<8>(BB_BODY(i) { (half == 0 ? total[i].lo : total[i].hi) = t[i]; });
  });
}
