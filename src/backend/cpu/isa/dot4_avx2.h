// Sums of four u8·s8 products per 32-bit lane without an instruction for it. maddubs would saturate for codes above
// 127, so both sides are widened; the lanes come out in another order, which a sum over all of them does not see.
#pragma once

inline __m256i dot4(__m256i u, __m256i s) {
  const __m256i lo = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(u)),
                                       _mm256_cvtepi8_epi16(_mm256_castsi256_si128(s)));
  const __m256i hi = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(u, 1)),
                                       _mm256_cvtepi8_epi16(_mm256_extracti128_si256(s, 1)));
  return _mm256_add_epi32(lo, hi);
}
