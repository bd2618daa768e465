// Sums of four u8·s8 products per 32-bit lane in one instruction.
#pragma once

inline int32x4_t dot16(uint8x16_t u, int8x16_t s) { return vusdotq_s32(vdupq_n_s32(0), u, s); }
