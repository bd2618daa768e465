// Sixteen 32-bit lanes of integers, or 64 bytes, as four NEON registers. Included inside an instruction set's own
// namespace after simd_neon.h.
#pragma once

struct I32x16 {
  int32x4_t v[4];
};

inline I32x16 int_zero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
inline I32x16 load_int(const void* p) {
  const auto* at = static_cast<const uint8_t*>(p);
  I32x16 a;
  for (int i = 0; i < 4; ++i) a.v[i] = vreinterpretq_s32_u8(vld1q_u8(at + 16 * i));
  return a;
}
/// The first `bytes` (a multiple of 16, below 64); the others are zero and not read.
inline I32x16 load_int_n(const void* p, int bytes) {
  I32x16 a = int_zero();
  for (int i = 0; i < bytes / 16; ++i) a.v[i] = vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p) + 16 * i));
  return a;
}
inline void store_int(void* p, I32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8_t*>(p) + 16 * i, vreinterpretq_u8_s32(a.v[i]));
}
inline I32x16 add(I32x16 a, I32x16 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
inline I32x16 times16(I32x16 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vshlq_n_s32(a.v[i], 4);
  return a;
}
inline I32x16 times128(I32x16 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vshlq_n_s32(a.v[i], 7);
  return a;
}
inline I32x16 int_set1(int a) {
  const int32x4_t v = vdupq_n_s32(a);
  return {{v, v, v, v}};
}
inline I32x16 bit_and(I32x16 a, I32x16 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vandq_s32(a.v[i], b.v[i]);
  return a;
}
inline I32x16 bit_or(I32x16 a, I32x16 b) {
  for (int i = 0; i < 4; ++i) a.v[i] = vorrq_s32(a.v[i], b.v[i]);
  return a;
}
inline F32x16 zero_where_equal(F32x16 a, F32x16 b) {
  for (int i = 0; i < 4; ++i)
    a.v[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v[i]), vceqq_f32(a.v[i], b.v[i])));
  return a;
}
inline F32x16 to_float(I32x16 a) {
  F32x16 f;
  for (int i = 0; i < 4; ++i) f.v[i] = vcvtq_f32_s32(a.v[i]);
  return f;
}
inline I32x16 as_int(F32x16 a) {
  I32x16 b;
  for (int i = 0; i < 4; ++i) b.v[i] = vreinterpretq_s32_f32(a.v[i]);
  return b;
}
inline F32x16 as_float(I32x16 a) {
  F32x16 b;
  for (int i = 0; i < 4; ++i) b.v[i] = vreinterpretq_f32_s32(a.v[i]);
  return b;
}
/// The first eight lanes, each two times.
inline F32x16 dup_lanes(F32x16 a) {
  return {
      {vzip1q_f32(a.v[0], a.v[0]), vzip2q_f32(a.v[0], a.v[0]), vzip1q_f32(a.v[1], a.v[1]), vzip2q_f32(a.v[1], a.v[1])}};
}
/// Bytes as they lie: the low or high four bits of each.
inline I32x16 low_nibbles(I32x16 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(a.v[i]), vdupq_n_u8(15)));
  return a;
}
inline I32x16 high_nibbles(I32x16 a) {
  for (int i = 0; i < 4; ++i) a.v[i] = vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a.v[i]), 4));
  return a;
}
/// table[byte] for bytes below 16.
inline I32x16 lookup(const uint8_t (&table)[16], I32x16 bytes) {
  const uint8x16_t t = vld1q_u8(table);
  for (int i = 0; i < 4; ++i) bytes.v[i] = vreinterpretq_s32_u8(vqtbl1q_u8(t, vreinterpretq_u8_s32(bytes.v[i])));
  return bytes;
}
/// Four bytes in every lane.
inline I32x16 broadcast4(const int8_t* p) {
  int quad;
  __builtin_memcpy(&quad, p, 4);
  const int32x4_t a = vdupq_n_s32(quad);
  return {{a, a, a, a}};
}
/// Thirty-two bytes as words.
inline I32x16 widen_words(const int8_t* p) {
  I32x16 a;
  for (int i = 0; i < 4; ++i) a.v[i] = vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p + 8 * i)));
  return a;
}
/// sum + the products of two words of each lane.
inline I32x16 dot_words(I32x16 sum, const I32x16& a, const I32x16& b) {
  for (int i = 0; i < 4; ++i) {
    const int16x8_t x = vreinterpretq_s16_s32(a.v[i]), y = vreinterpretq_s16_s32(b.v[i]);
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    sum.v[i] = vaddq_s32(sum.v[i], vpaddq_s32(low, high));
  }
  return sum;
}
/// The low halves of sixteen lanes.
inline void store_low_words(int16_t* p, I32x16 a) {
  for (int i = 0; i < 4; ++i) vst1_s16(p + 4 * i, vmovn_s32(a.v[i]));
}
/// Sixteen floats, rounded to nearest even, as bytes.
inline void store_int8(int8_t* p, F32x16 a) {
  const int16x8_t low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[0])), vqmovn_s32(vcvtnq_s32_f32(a.v[1])));
  const int16x8_t high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.v[2])), vqmovn_s32(vcvtnq_s32_f32(a.v[3])));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}
inline constexpr bool kUnpacks32 = false;
template <int BITS>
void store_codes32(uint8_t* out, const uint8_t* p);
/// Sixteen codes as bytes; reads 2·BITS of them.
template <int BITS>
inline void store_codes(uint8_t* out, const uint8_t* p) {
  vst1q_u8(out, codes16<BITS>(p));
}
BB_INLINE void prefetch(const void* p) { asm volatile("prfm pldl1keep, %0" : : "Q"(*static_cast<const char*>(p))); }

/// Into the second level.
BB_INLINE void prefetch_far(const void* p) { asm volatile("prfm pldl2keep, %0" : : "Q"(*static_cast<const char*>(p))); }

BB_INLINE void transpose4(int32x4_t& a, int32x4_t& b, int32x4_t& c, int32x4_t& d) {
  const int64x2_t e = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), f = vreinterpretq_s64_s32(vtrn2q_s32(a, b));
  const int64x2_t g = vreinterpretq_s64_s32(vtrn1q_s32(c, d)), h = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
  a = vreinterpretq_s32_s64(vtrn1q_s64(e, g));
  b = vreinterpretq_s32_s64(vtrn1q_s64(f, h));
  c = vreinterpretq_s32_s64(vtrn2q_s64(e, g));
  d = vreinterpretq_s32_s64(vtrn2q_s64(f, h));
}

/// t[i] lane j <-> t[j] lane i, in sixteen squares of four
BB_INLINE void transpose(I32x16 (&t)[16]) {
  I32x16 out[16];
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      int32x4_t a = t[4 * i].v[j], b = t[4 * i + 1].v[j], c = t[4 * i + 2].v[j], d = t[4 * i + 3].v[j];
      transpose4(a, b, c, d);
      out[4 * j].v[i] = a;
      out[4 * j + 1].v[i] = b;
      out[4 * j + 2].v[i] = c;
      out[4 * j + 3].v[i] = d;
    }
  }
  for (int i = 0; i < 16; ++i) t[i] = out[i];
}

/// 64 bytes of each of sixteen rows from p on, `stride` bytes apart: sink(i, the i-th four bytes of all rows).
template <class Sink>
inline void load_square(const uint8_t* p, size_t stride, const Sink& sink) {
  I32x16 t[16];
  for (int i = 0; i < 16; ++i) t[i] = load_int(p + size_t(i) * stride);
  transpose(t);
  for (int i = 0; i < 16; ++i) sink(i, t[i]);
}

// int8 products: rows of x up to which weights are read as they lie, and of panels that meet a tile of them at once.
inline constexpr int kDirectRows = 4, kIntRows = 4;
