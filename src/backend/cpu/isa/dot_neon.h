// Sums of four u8·s8 products per 32-bit lane by widening: codes reach 255, so they are widened to signed 16 bits.
#pragma once

inline int32x4_t dot16(uint8x16_t u, int8x16_t s) {
  const int16x8_t u0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u))),
                  u1 = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(u)));
  const int16x8_t s0 = vmovl_s8(vget_low_s8(s)), s1 = vmovl_s8(vget_high_s8(s));
  int32x4_t sum = vmull_s16(vget_low_s16(u0), vget_low_s16(s0));
  sum = vmlal_s16(sum, vget_high_s16(u0), vget_high_s16(s0));
  sum = vmlal_s16(sum, vget_low_s16(u1), vget_low_s16(s1));
  return vmlal_s16(sum, vget_high_s16(u1), vget_high_s16(s1));
}
