// The integer dot product on 256-bit registers: eight lanes of four products each. DOT4(acc, u8, s8) adds them; plain
// AVX2 has none that cannot saturate for codes above 127, so it widens to 16 bits instead.
#pragma once

struct Codes32 {
  __m256i q;
};
using DotLanes = __m256;

template <int BITS>
inline Codes32 load_codes32(const uint8_t* p) {
  if constexpr (BITS == 4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i mask = _mm_set1_epi8(15);
    const __m128i even = _mm_and_si128(bytes, mask), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    return {_mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd))};
  } else if constexpr (BITS == 8) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  } else {
    uint64_t a, b, c, d;
    split_codes<BITS>(p, a, b);
    split_codes<BITS>(p + 2 * BITS, c, d);
    const uint64_t mask = 0x0101010101010101ull * ((1u << BITS) - 1u);
    return {_mm256_set_epi64x(int64_t(_pdep_u64(d, mask)), int64_t(_pdep_u64(c, mask)), int64_t(_pdep_u64(b, mask)),
                              int64_t(_pdep_u64(a, mask)))};
  }
}
inline DotLanes dot_zero() { return _mm256_setzero_ps(); }
inline DotLanes dot_add(DotLanes acc, const Codes32& c, const int8_t* x, float scale) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot4(c.q, v)), _mm256_set1_ps(scale), acc);
}
inline float dot_reduce(DotLanes acc) {
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
