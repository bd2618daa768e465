// Sums of four products of two signed bytes per lane in one instruction; codes below 16 are signed bytes too.
#pragma once

struct Dot {
  using Sum = I32x16;
  static constexpr int kBits = 6;         // widest codes
  static constexpr int kSteps = 1 << 16;  // steps before total()
  static Sum zero() { return int_zero(); }
  static Sum from(I32x16 start) { return start; }
  static Sum step(Sum s, const I32x16& codes, const I32x16& x) {
    for (int i = 0; i < 4; ++i)
      s.v[i] = vdotq_s32(s.v[i], vreinterpretq_s8_s32(codes.v[i]), vreinterpretq_s8_s32(x.v[i]));
    return s;
  }
  static I32x16 total(const Sum& s) { return s; }
};
inline constexpr int kNarrowBits = Dot::kBits;  // of bytes that rows of codes are multiplied as; others are split
