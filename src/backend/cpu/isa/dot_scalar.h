// Sums of four products of an unsigned and a signed byte per lane, one at a time.
#pragma once

struct Dot {
  using Sum = I32x16;
  static constexpr int kBits = 8;         // widest codes
  static constexpr int kSteps = 1 << 16;  // steps before total()
  static Sum zero() { return int_zero(); }
  static Sum from(I32x16 start) { return start; }
  static Sum step(Sum s, const I32x16& codes, const I32x16& x) {
    uint8_t q[64];
    int8_t v[64];
    __builtin_memcpy(q, &codes, 64);
    __builtin_memcpy(v, &x, 64);
    for (int i = 0; i < 64; ++i) s.v[i / 4] += int32_t(q[i]) * int32_t(v[i]);
    return s;
  }
  static I32x16 total(const Sum& s) { return s; }
};
inline I32x16 dot_words(I32x16 sum, const I32x16& a, const I32x16& b) {
  int16_t x[32], y[32];
  __builtin_memcpy(x, &a, 64);
  __builtin_memcpy(y, &b, 64);
  for (int i = 0; i < 32; ++i) sum.v[i / 2] += int32_t(x[i]) * int32_t(y[i]);
  return sum;
}
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
