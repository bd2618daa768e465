// Sums of products of an unsigned and a signed byte without an instruction that sums four: pairs are summed in 16 bits,
// which eight steps of 2·15·127 cannot overflow.
#pragma once

struct I16x32 {
  __m256i lo, hi;
};

struct Dot {
  using Sum = I16x32;
  static constexpr int kBits = 4;  // widest codes
  static constexpr int kSteps = 8;
  static Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  /// As one piece of text for the assembler: GCC 12 would form the products of many steps first and run out of
  /// registers.
  static __m256i step8(__m256i s, __m256i codes, __m256i x) {
    __m256i product;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(s), "=&x"(product) : "x"(codes), "x"(x));
    return s;
  }
  static Sum step(Sum s, I32x16 codes, I32x16 x) { return {step8(s.lo, codes.lo, x.lo), step8(s.hi, codes.hi, x.hi)}; }
  static I32x16 total(Sum s) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(s.lo, ones), _mm256_madd_epi16(s.hi, ones)};
  }
};
inline I32x16 dot_words(I32x16 sum, I32x16 a, I32x16 b) {
  return add(sum, {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)});
}
inline constexpr int kNarrowBits = 6;  // of bytes that rows of codes are multiplied as; others are split
