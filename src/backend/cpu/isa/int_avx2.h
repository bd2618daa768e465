// Sixteen 32-bit lanes of integers, or 64 bytes, as two AVX2 registers. Included inside an instruction set's own
// namespace after simd_avx2.h.
#pragma once

struct I32x16 {
  __m256i lo, hi;
};

inline I32x16 int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32x16 load_int(const void* p) {
  const auto* at = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store_int(void* p, I32x16 a) {
  auto* at = static_cast<__m256i*>(p);
  _mm256_storeu_si256(at, a.lo);
  _mm256_storeu_si256(at + 1, a.hi);
}
/// The first `bytes` (a multiple of 16, below 64); the others are zero and not read.
inline I32x16 load_int_n(const void* p, int bytes) {
  alignas(32) uint8_t t[64] = {};
  for (int i = 0; i < bytes; i += 16) __builtin_memcpy(t + i, static_cast<const uint8_t*>(p) + i, 16);
  return load_int(t);
}
inline I32x16 add(I32x16 a, I32x16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32x16 times16(I32x16 a) { return {_mm256_slli_epi32(a.lo, 4), _mm256_slli_epi32(a.hi, 4)}; }
inline I32x16 times128(I32x16 a) { return {_mm256_slli_epi32(a.lo, 7), _mm256_slli_epi32(a.hi, 7)}; }
inline I32x16 int_set1(int a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
inline I32x16 bit_and(I32x16 a, I32x16 b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline I32x16 bit_or(I32x16 a, I32x16 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline F32x16 zero_where_equal(F32x16 a, F32x16 b) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), a.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ), a.hi)};
}
inline F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32x16 as_int(F32x16 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline F32x16 as_float(I32x16 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
/// The first eight lanes, each two times.
inline F32x16 dup_lanes(F32x16 a) {
  return {_mm256_permutevar8x32_ps(a.lo, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
          _mm256_permutevar8x32_ps(a.lo, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}
/// Bytes as they lie: the low or high four bits of each.
inline I32x16 low_nibbles(I32x16 a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline I32x16 high_nibbles(I32x16 a) { return low_nibbles({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)}); }
/// table[byte] for bytes below 16.
inline __m256i lookup32(const uint8_t (&table)[16], __m256i bytes) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return _mm256_shuffle_epi8(t, bytes);
}
inline I32x16 lookup(const uint8_t (&table)[16], I32x16 bytes) {
  return {lookup32(table, bytes.lo), lookup32(table, bytes.hi)};
}
/// Four bytes in every lane.
inline I32x16 broadcast4(const int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, 4);
  return {_mm256_set1_epi32(quad), _mm256_set1_epi32(quad)};
}
/// Thirty-two bytes as words.
inline I32x16 widen_words(const int8_t* p) {
  const auto* at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(at)), _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1))};
}
/// The low halves of sixteen lanes.
inline void store_low_words(int16_t* p, I32x16 a) {
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12,
                                         13, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i both = _mm256_unpacklo_epi64(_mm256_shuffle_epi8(a.lo, order), _mm256_shuffle_epi8(a.hi, order));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(both, 0xd8));
}
/// Sixteen floats, rounded to nearest even, as bytes.
inline void store_int8(int8_t* p, F32x16 a) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}
/// Sixteen codes as bytes; reads 2·BITS of them.
template <int BITS>
inline void store_codes(uint8_t* out, const uint8_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes16<BITS>(p));
}
/// As text for the assembler: GCC 12 drops the builtin where a function does nothing else.
BB_INLINE void prefetch(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

BB_INLINE void prefetch_far(const void* p) { prefetch(p); }

BB_INLINE void transpose8(__m256i (&t)[8]) {
  __m256i a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
    t[4 + j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
  }
}

/// t[i] lane j <-> t[j] lane i, in four squares of eight
BB_INLINE void transpose(I32x16 (&t)[16]) {
  __m256i a[8], b[8], c[8], d[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = t[i].lo;
  transpose8(a);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) b[i] = t[i].hi;
  transpose8(b);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) c[i] = t[8 + i].lo;
  transpose8(c);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) d[i] = t[8 + i].hi;
  transpose8(d);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[i] = {a[i], c[i]};
    t[8 + i] = {b[i], d[i]};
  }
}

/// 64 bytes of each of sixteen rows from p on, `stride` bytes apart: sink(i, the i-th four bytes of all rows). Quarters
/// of rows meet in a register as they are loaded, so that nothing crosses quarters afterwards.
template <class Sink>
BB_INLINE void load_square(const uint8_t* p, size_t stride, const Sink& sink) {
  const uint8_t* const rows[4] = {p, p + 4 * stride, p + 8 * stride, p + 12 * stride};
  const auto quarter = [](const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  unroll<4>(BB_BODY(c) {
    __m256i t[2][4];
    unroll<2>(BB_BODY(half) {
      __m256i a[4];
      unroll<4>(BB_BODY(i) {
        const size_t at = size_t(i) * stride + size_t(16 * c);
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(rows[2 * half] + at)),
                                       quarter(rows[2 * half + 1] + at), 1);
      });
      const __m256i b0 = _mm256_unpacklo_epi32(a[0], a[1]), b1 = _mm256_unpackhi_epi32(a[0], a[1]),
                    b2 = _mm256_unpacklo_epi32(a[2], a[3]), b3 = _mm256_unpackhi_epi32(a[2], a[3]);
      t[half][0] = _mm256_unpacklo_epi64(b0, b2);
      t[half][1] = _mm256_unpackhi_epi64(b0, b2);
      t[half][2] = _mm256_unpacklo_epi64(b1, b3);
      t[half][3] = _mm256_unpackhi_epi64(b1, b3);
    });
    unroll<4>(BB_BODY(j) { sink(Index<4 * c + j>(), I32x16{t[0][j], t[1][j]}); });
  });
}

// int8 products: rows of x up to which weights are read as they lie, and of panels that meet a tile of them at once.
inline constexpr int kDirectRows = 4, kIntRows = 4;

#include "backend/cpu/isa/unpack_avx2.h"
