// Sums of four products of an unsigned and a signed byte per lane, in one instruction of eight lanes for every width of
// codes.
#pragma once

struct Dot {
  using Sum = I32x16;
  static constexpr int kBits = 8;         // widest codes
  static constexpr int kSteps = 1 << 16;  // steps before total()
  static Sum zero() { return int_zero(); }
  static Sum from(I32x16 start) { return start; }
  static Sum step(Sum s, I32x16 codes, I32x16 x) {
    return {_mm256_dpbusd_avx_epi32(s.lo, codes.lo, x.lo), _mm256_dpbusd_avx_epi32(s.hi, codes.hi, x.hi)};
  }
  static I32x16 total(Sum s) { return s; }
};
inline I32x16 dot_words(I32x16 sum, I32x16 a, I32x16 b) {
  return {_mm256_dpwssd_avx_epi32(sum.lo, a.lo, b.lo), _mm256_dpwssd_avx_epi32(sum.hi, a.hi, b.hi)};
}
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
