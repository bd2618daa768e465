// Signed dot products take codes below 128; Σ q·v = Σ (q - 128)·v + 128·Σ v brings all codes into that range.
#pragma once

inline int32x4_t dot16(uint8x16_t u, int8x16_t s) {
  const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(0x80)));
  const int32x4_t sum = vdotq_s32(vdupq_n_s32(0), centred, s);
  return vaddq_s32(sum, vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), s), 7));
}
