// Sums of products of an unsigned and a signed byte without an instruction that sums four: pairs are summed in 16 bits,
// which eight steps of 2·15·127 cannot overflow.
#pragma once

struct Dot {
  using Sum = __m512i;             // 32 sums of 16 bits
  static constexpr int kBits = 4;  // widest codes
  static constexpr int kSteps = 8;
  static Sum zero() { return int_zero(); }
  static Sum step(Sum s, I32x16 codes, I32x16 x) { return _mm512_add_epi16(s, _mm512_maddubs_epi16(codes, x)); }
  static I32x16 total(Sum s) { return _mm512_madd_epi16(s, _mm512_set1_epi16(1)); }
};
inline I32x16 dot_words(I32x16 sum, I32x16 a, I32x16 b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
