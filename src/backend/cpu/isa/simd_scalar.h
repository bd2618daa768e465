// F32x16: sixteen f32 in an array: the portable fallback, left to the compiler. Without a fused multiply-add in
// hardware its last bits differ from the other sets.
#pragma once

struct F32x16 {
  float v[16];
};

template <class Op>
inline F32x16 each(Op op) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = op(i);
  return r;
}

inline F32x16 set1(float x) {
  return each([&](int) { return x; });
}
inline F32x16 zero() { return set1(0); }
inline F32x16 load(const float* p) {
  return each([&](int i) { return p[i]; });
}
inline F32x16 load_n(const float* p, int n) {
  return each([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline void store_n(float* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline F32x16 add(F32x16 a, F32x16 b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32x16 div(F32x16 a, F32x16 b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  return each([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 min(F32x16 a, F32x16 b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 abs(F32x16 a) {
  return each([&](int i) { return __builtin_fabsf(a.v[i]); });
}
inline F32x16 round(F32x16 a) {
  return each([&](int i) { return __builtin_rintf(a.v[i]); });
}
/// a·2^n for integral n in [-126, 127]
inline F32x16 scale2(F32x16 a, F32x16 n) {
  return each([&](int i) {
    const uint32_t exponent = uint32_t(int(n.v[i]) + 127) << 23;
    float factor;
    __builtin_memcpy(&factor, &exponent, 4);
    return a.v[i] * factor;
  });
}

/// One fixed tree for every instruction set: halves are added until one lane is left.
inline float reduce_add(F32x16 a) {
  for (int n = 8; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
  }
  return a.v[0];
}
inline float reduce_max(F32x16 a) {
  float r = a.v[0];
  for (float x : a.v) r = x > r ? x : r;
  return r;
}

inline F32x16 load_bf16(const void* p) {
  return each([&](int i) {
    uint16_t bits;
    __builtin_memcpy(&bits, static_cast<const uint8_t*>(p) + 2 * i, 2);
    return widen_bf16(bits);
  });
}
inline F32x16 load_i8(const void* p) {
  F32x16 a;
  for (int i = 0; i < 16; ++i) a.v[i] = float(static_cast<const int8_t*>(p)[i]);
  return a;
}
inline F32x16 load_f16(const void* p) {
  return each([&](int i) {
    uint16_t bits;
    __builtin_memcpy(&bits, static_cast<const uint8_t*>(p) + 2 * i, 2);
    return widen_f16(bits);
  });
}
inline F32x16 load_e8m0(const void* p) {
  return each([&](int i) { return widen_e8m0(static_cast<const uint8_t*>(p)[i]); });
}
inline F32x16 load_e4m3(const void* p) {
  return each([&](int i) { return widen_e4m3(static_cast<const uint8_t*>(p)[i]); });
}
inline void store_f16(void* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) {
    const uint16_t bits = narrow_f16(a.v[i]);
    __builtin_memcpy(static_cast<uint8_t*>(p) + 2 * i, &bits, 2);
  }
}
inline void store_bf16(void* p, F32x16 a) { narrow_bf16(a.v, 16, static_cast<uint16_t*>(p)); }

/// w = q·scale + bias.
template <int BITS>
struct Decoder {
  float scale, bias;
  Decoder(float s, float b) : scale(s), bias(b) {}
  F32x16 operator()(const uint8_t* p) const {
    uint8_t q[16];
    if constexpr (BITS == 8) {
      __builtin_memcpy(q, p, 16);
    } else {  // one by one: the compiler makes vectors of it where spread_codes() would stand in the way
      uint64_t low, high;
      split_codes<BITS>(p, low, high);
      constexpr uint64_t mask = (1u << BITS) - 1u;
      for (int i = 0; i < 8; ++i) {
        q[i] = uint8_t((low >> (i * BITS)) & mask);
        q[i + 8] = uint8_t((high >> (i * BITS)) & mask);
      }
    }
    return each([&](int i) { return float(q[i]) * scale + bias; });
  }
};

/// w = code·scale.
template <>
struct Decoder<kE2m1> {
  float table[16];
  Decoder(float s, float) {
    for (int i = 0; i < 16; ++i) table[i] = widen_f16(uint16_t(kE2m1Halves[i] << 8)) * s;
  }
  F32x16 operator()(const uint8_t* p) const {
    uint8_t q[16];
    unpack16<4>(p, q);
    return each([&](int i) { return table[q[i]]; });
  }
};
template <>
struct Decoder<kE4m3> {
  float scale;
  Decoder(float s, float) : scale(s) {}
  F32x16 operator()(const uint8_t* p) const { return mul(load_e4m3(p), set1(scale)); }
};

inline constexpr int kMatvecTile = 1;  // rows of x that codes are decoded for at once
inline constexpr int kTileM = 1, kTileN = 2;
inline constexpr int kGemmRows = 1, kGemmSums = 1;  // small_gemm: rows, and sums of 16 columns held at once
