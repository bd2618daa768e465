// F32x16: sixteen f32 as four NEON registers. Half-width elements are widened when loaded (load_f16, load_bf16).
// Included inside an instruction set's own namespace.
#pragma once

struct F32x16 {
  float32x4_t v[4];
};

template <class Op>
inline F32x16 each(Op op) {
  return {{op(0), op(1), op(2), op(3)}};
}

inline F32x16 set1(float x) {
  return each([&](int) { return vdupq_n_f32(x); });
}
inline F32x16 zero() { return set1(0); }
inline F32x16 load(const float* p) {
  return each([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
/// The first n lanes (n < 16); the others are zero.
inline F32x16 load_n(const float* p, int n) {
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
inline void store_n(float* p, F32x16 a, int n) {
  float t[16];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
inline F32x16 add(F32x16 a, F32x16 b) {
  return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F32x16 div(F32x16 a, F32x16 b) {
  return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  return each([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return each([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); });
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return each([&](int i) { return vminq_f32(a.v[i], b.v[i]); });
}
inline F32x16 abs(F32x16 a) {
  return each([&](int i) { return vabsq_f32(a.v[i]); });
}
inline F32x16 round(F32x16 a) {
  return each([&](int i) { return vrndnq_f32(a.v[i]); });
}
/// a·2^n for integral n in [-126, 127]
inline F32x16 scale2(F32x16 a, F32x16 n) {
  return each([&](int i) {
    const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23);
    return vmulq_f32(a.v[i], vreinterpretq_f32_s32(exponent));
  });
}

/// One fixed tree for every instruction set: halves are added until one lane is left.
inline float reduce_add(F32x16 a) {
  const float32x4_t c = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t d = vadd_f32(vget_low_f32(c), vget_high_f32(c));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
inline float reduce_max(F32x16 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3])));
}

inline F32x16 load_bf16(const void* p) {
  const auto* at = static_cast<const uint16_t*>(p);
  return each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(at + 4 * i), 16)); });
}
inline F32x16 load_i8(const void* p) {
  const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))}};
}
inline F32x16 load_f16(const void* p) {
  const auto* at = static_cast<const uint16_t*>(p);
  return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at + 4 * i))); });
}
inline F32x16 load_e8m0(const void* p) {
  const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(p));
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  const uint32x4_t words[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)),
                               vmovl_high_u16(high)};
  return each(
      [&](int i) { return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(words[i], 23), vdupq_n_u32(0x00400000))); });
}
/// Eight f16 and eight more.
inline F32x16 widen_halves(uint16x8_t low, uint16x8_t high) {
  const float16x8_t a = vreinterpretq_f16_u16(low), b = vreinterpretq_f16_u16(high);
  return {{vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)}};
}
/// As the upper parts of f16, whose exponent counts from eight lower.
inline F32x16 load_e4m3(const void* p) {
  const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(p));
  const auto halves = [](uint16x8_t w) {
    return vorrq_u16(vandq_u16(vshlq_n_u16(w, 8), vdupq_n_u16(0x8000)),
                     vandq_u16(vshlq_n_u16(w, 7), vdupq_n_u16(0x3f80)));
  };
  return mul(widen_halves(halves(vmovl_u8(vget_low_u8(bytes))), halves(vmovl_high_u8(bytes))), set1(256));
}
inline void store_f16(void* p, F32x16 a) {
  auto* at = static_cast<uint16_t*>(p);
  for (int i = 0; i < 4; ++i) vst1_u16(at + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
inline void store_bf16(void* p, F32x16 a) {
  float t[16];
  store(t, a);
  narrow_bf16(t, 16, static_cast<uint16_t*>(p));
}

/// Sixteen codes of BITS bits from 2·BITS bytes, in order, as bytes.
template <int BITS>
inline uint8x16_t codes16(const uint8_t* p) {
  if constexpr (BITS == 8) {
    return vld1q_u8(p);
  } else if constexpr (BITS == 4) {
    const uint8x8_t bytes = vld1_u8(p);
    const uint8x8x2_t pairs = vzip_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    return vcombine_u8(pairs.val[0], pairs.val[1]);
  } else {
    uint8_t t[16];
    unpack16<BITS>(p, t);
    return vld1q_u8(t);
  }
}

/// w = q·scale + bias with one rounding.
template <int BITS>
struct Decoder {
  float32x4_t scale, bias;
  Decoder(float s, float b) : scale(vdupq_n_f32(s)), bias(vdupq_n_f32(b)) {}
  F32x16 operator()(const uint8_t* p) const {
    const uint8x16_t q = codes16<BITS>(p);
    const uint16x8_t lo = vmovl_u8(vget_low_u8(q)), hi = vmovl_u8(vget_high_u8(q));
    const uint32x4_t w[4] = {vmovl_u16(vget_low_u16(lo)), vmovl_u16(vget_high_u16(lo)), vmovl_u16(vget_low_u16(hi)),
                             vmovl_u16(vget_high_u16(hi))};
    return each([&](int i) { return vfmaq_f32(bias, vcvtq_f32_u32(w[i]), scale); });
  }
};

/// w = code·scale with one rounding.
template <>
struct Decoder<kE2m1> {
  F32x16 scale;
  Decoder(float s, float) : scale(set1(s)) {}
  F32x16 operator()(const uint8_t* p) const {
    const uint8x16_t bytes = vqtbl1q_u8(vld1q_u8(kE2m1Halves), codes16<4>(p));
    return mul(widen_halves(vshll_n_u8(vget_low_u8(bytes), 8), vshll_high_n_u8(bytes, 8)), scale);
  }
};
template <>
struct Decoder<kE4m3> {
  F32x16 scale;
  Decoder(float s, float) : scale(set1(s)) {}
  F32x16 operator()(const uint8_t* p) const { return mul(load_e4m3(p), scale); }
};

inline constexpr int kMatvecTile = kMatvecRows;  // rows of x that codes are decoded for at once
inline constexpr int kTileM = 2, kTileN = 2;
inline constexpr int kGemmRows = 6, kGemmSums = 6;  // small_gemm: rows, and sums of 16 columns held at once
