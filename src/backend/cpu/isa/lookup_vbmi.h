// Codes of four bits through a table, with VBMI: a permutation of bytes looks at six bits of each index, so that a
// table of sixteen, four times, needs no mask before it. Included after int_avx512.h.
#pragma once

BB_INLINE __m512i table64(const uint8_t (&table)[16]) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}
/// table[the low or the high four bits] of each byte.
BB_INLINE I32x16 lookup_low(const uint8_t (&table)[16], I32x16 line) {
  return _mm512_permutexvar_epi8(line, table64(table));
}
BB_INLINE I32x16 lookup_high(const uint8_t (&table)[16], I32x16 line) {
  return _mm512_permutexvar_epi8(_mm512_srli_epi32(line, 4), table64(table));
}
