// Sixteen 32-bit lanes of integers, or 64 bytes, as one AVX-512 register. Included inside an instruction set's own
// namespace after simd_avx512.h.
#pragma once

using I32x16 = __m512i;

inline I32x16 int_zero() { return _mm512_setzero_si512(); }
inline I32x16 load_int(const void* p) { return _mm512_loadu_si512(p); }
/// The first `bytes` (a multiple of 16, below 64); the others are zero and not read.
inline I32x16 load_int_n(const void* p, int bytes) {
  return _mm512_maskz_loadu_epi32(__mmask16((1u << (bytes / 4)) - 1u), p);
}
inline void store_int(void* p, I32x16 a) { _mm512_storeu_si512(p, a); }
inline I32x16 add(I32x16 a, I32x16 b) { return _mm512_add_epi32(a, b); }
inline I32x16 times16(I32x16 a) { return _mm512_slli_epi32(a, 4); }
inline I32x16 times128(I32x16 a) { return _mm512_slli_epi32(a, 7); }
inline I32x16 int_set1(int a) { return _mm512_set1_epi32(a); }
inline I32x16 bit_and(I32x16 a, I32x16 b) { return _mm512_and_si512(a, b); }
inline I32x16 bit_or(I32x16 a, I32x16 b) { return _mm512_or_si512(a, b); }
inline F32x16 zero_where_equal(F32x16 a, F32x16 b) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ), a.v)};
}
inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a)}; }
inline I32x16 as_int(F32x16 a) { return _mm512_castps_si512(a.v); }
inline F32x16 as_float(I32x16 a) { return {_mm512_castsi512_ps(a)}; }
/// The first eight lanes, each two times.
inline F32x16 dup_lanes(F32x16 a) {
  return {_mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), a.v)};
}
/// Bytes as they lie: the low or high four bits of each.
inline I32x16 low_nibbles(I32x16 a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
#ifdef __GFNI__
/// A byte times a matrix of bits, whose lower rows are the upper bits: one instruction.
inline I32x16 high_nibbles(I32x16 a) {
  return _mm512_gf2p8affine_epi64_epi8(a, _mm512_set1_epi64(0x1020408000000000), 0);
}
#else
inline I32x16 high_nibbles(I32x16 a) { return _mm512_and_si512(_mm512_srli_epi32(a, 4), _mm512_set1_epi8(15)); }
#endif
/// table[byte] for bytes below 16.
inline I32x16 lookup(const uint8_t (&table)[16], I32x16 bytes) {
  const __m512i t = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return _mm512_shuffle_epi8(t, bytes);
}
/// Four bytes in every lane.
inline I32x16 broadcast4(const int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, 4);
  return _mm512_set1_epi32(quad);
}
/// Thirty-two bytes as words.
inline I32x16 widen_words(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
/// The low halves of sixteen lanes.
inline void store_low_words(int16_t* p, I32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
}
/// Sixteen floats, rounded to nearest even, as bytes.
inline void store_int8(int8_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
/// Sixteen codes as bytes; reads 2·BITS of them.
template <int BITS>
inline void store_codes(uint8_t* out, const uint8_t* p) {
  uint64_t low, high;
  split_codes<BITS>(p, low, high);
  const uint64_t mask = 0x0101010101010101ull * ((1u << BITS) - 1u), a = _pdep_u64(low, mask),
                 b = _pdep_u64(high, mask);
  __builtin_memcpy(out, &a, 8);
  __builtin_memcpy(out + 8, &b, 8);
}
/// As text for the assembler: GCC 12 drops the builtin where a function does nothing else.
BB_INLINE void prefetch(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }

/// Into the second level.
BB_INLINE void prefetch_far(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

/// t[i] lane j <-> t[j] lane i
BB_INLINE void transpose(I32x16 (&t)[16]) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // b[i + j]: column 4L + j of rows i..i+3 in 128-bit lane L
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i p = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), q = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    const __m512i r = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88),
                  s = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(p, r, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(q, s, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(p, r, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(q, s, 0xdd);
  }
}

/// 64 bytes of each of sixteen rows from p on, `stride` bytes apart: sink(i, the i-th four bytes of all rows). Quarters
/// of rows meet in a register as they are loaded, so that nothing crosses quarters afterwards.
template <class Sink>
BB_INLINE void load_square(const uint8_t* p, size_t stride, const Sink& sink) {
  const uint8_t* const rows[4] = {p, p + 4 * stride, p + 8 * stride, p + 12 * stride};
  const auto quarter = [](const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  unroll<4>(BB_BODY(c) {
    __m512i a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const size_t at = size_t(i) * stride + size_t(16 * c);
      a[i] = _mm512_castsi128_si512(quarter(rows[0] + at));
      a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x00f0, quarter(rows[1] + at));
      a[i] = _mm512_mask_broadcast_i32x4(a[i], 0x0f00, quarter(rows[2] + at));
      a[i] = _mm512_mask_broadcast_i32x4(a[i], 0xf000, quarter(rows[3] + at));
    }
    const __m512i b0 = _mm512_unpacklo_epi32(a[0], a[1]), b1 = _mm512_unpackhi_epi32(a[0], a[1]),
                  b2 = _mm512_unpacklo_epi32(a[2], a[3]), b3 = _mm512_unpackhi_epi32(a[2], a[3]);
    sink(Index<4 * c>(), _mm512_unpacklo_epi64(b0, b2));
    sink(Index<4 * c + 1>(), _mm512_unpackhi_epi64(b0, b2));
    sink(Index<4 * c + 2>(), _mm512_unpacklo_epi64(b1, b3));
    sink(Index<4 * c + 3>(), _mm512_unpackhi_epi64(b1, b3));
  });
}

// int8 products: rows of x up to which weights are read as they lie, and of panels that meet a tile of them at once.
inline constexpr int kDirectRows = 4, kIntRows = 8;

#include "backend/cpu/isa/unpack_avx2.h"
