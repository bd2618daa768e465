// Sums of products of two bytes by widening: codes below 16 are signed bytes too, and a pair of products fits 16 bits.
#pragma once

struct Dot {
  using Sum = I32x16;
  static constexpr int kBits = 6;         // widest codes
  static constexpr int kSteps = 1 << 16;  // steps before total()
  static Sum zero() { return int_zero(); }
  static Sum from(I32x16 start) { return start; }
  static Sum step(Sum s, const I32x16& codes, const I32x16& x) {
    for (int i = 0; i < 4; ++i) {
      const int8x16_t q = vreinterpretq_s8_s32(codes.v[i]), v = vreinterpretq_s8_s32(x.v[i]);
      const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(q), vget_low_s8(v)), vmull_high_s8(q, v));
      s.v[i] = vpadalq_s16(s.v[i], pairs);
    }
    return s;
  }
  static I32x16 total(const Sum& s) { return s; }
};
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
