// The integer dot product on 128-bit registers; dot16 adds sixteen u8·s8 products in four lanes.
#pragma once

struct Codes32 {
  uint8x16_t a, b;
};
using DotLanes = float32x4_t;

template <int BITS>
inline Codes32 load_codes32(const uint8_t* p) {
  return {codes16<BITS>(p), codes16<BITS>(p + 2 * BITS)};
}
inline DotLanes dot_zero() { return vdupq_n_f32(0); }
inline DotLanes dot_add(DotLanes acc, const Codes32& c, const int8_t* x, float scale) {
  const int32x4_t sum = vaddq_s32(dot16(c.a, vld1q_s8(x)), dot16(c.b, vld1q_s8(x + 16)));
  return vfmaq_n_f32(acc, vcvtq_f32_s32(sum), scale);
}
inline float dot_reduce(DotLanes acc) { return vaddvq_f32(acc); }
