// Sums of products of an unsigned and a signed byte without an instruction that sums four: pairs are summed in 16 bits,
// which eight steps of 2·15·127 cannot overflow.
#pragma once

struct Dot {
  using Sum = I16;  // 32 lanes of 16 bits
  static constexpr int kSteps = 8;
  static Sum zero() { return int_zero(); }
  static Sum step(Sum s, I16 codes, I16 x) {
    return {_mm256_add_epi16(s.lo, _mm256_maddubs_epi16(codes.lo, x.lo)),
            _mm256_add_epi16(s.hi, _mm256_maddubs_epi16(codes.hi, x.hi))};
  }
  static Sum step_at(Sum s, I16 codes, const int8_t* x) { return step(s, codes, broadcast4(x)); }
  static I16 total(Sum s) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(s.lo, ones), _mm256_madd_epi16(s.hi, ones)};
  }
};
