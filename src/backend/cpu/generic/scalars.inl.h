// One number at a time: conversions and unpacking that the vector wrappers fall back on. Included inside an instruction
// set's own namespace, so that nothing here is shared between objects compiled for different processors.
#pragma once

inline float widen_bf16(uint16_t bits) {
  const uint32_t u = uint32_t(bits) << 16;
  float value;
  __builtin_memcpy(&value, &u, 4);
  return value;
}

inline float widen_f16(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
  uint32_t u;
  if (exponent == 0) {  // subnormal: exact as a product
    const float magnitude = float(mantissa) * 0x1p-24f;
    __builtin_memcpy(&u, &magnitude, 4);
  } else {
    u = (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (mantissa << 13);
  }
  u |= sign;
  float value;
  __builtin_memcpy(&value, &u, 4);
  return value;
}

inline uint16_t narrow_f16(float value) {
  uint32_t u;
  __builtin_memcpy(&u, &value, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return uint16_t(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // the sum stripes for us
    float small;
    __builtin_memcpy(&small, &magnitude, 4);
    small += 0.5f;
    __builtin_memcpy(&u, &small, 4);
    return uint16_t(sign | (u - 0x3f000000u));
  }
  return uint16_t(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13));
}

inline void narrow_bf16(const float* values, int count, uint16_t* out) {
  for (int i = 0; i < count; ++i) {
    uint32_t u;
    __builtin_memcpy(&u, &values[i], 4);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint16_t bits = uint16_t(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    __builtin_memcpy(reinterpret_cast<uint8_t*>(out) + 2 * i, &bits, 2);
  }
}

inline float widen_e8m0(uint8_t byte) {
  const uint32_t u = byte == 0 ? 0x00400000u : uint32_t(byte) << 23;
  float value;
  __builtin_memcpy(&value, &u, 4);
  return value;
}

/// As the upper part of an f16, whose exponent counts from eight lower.
inline float widen_e4m3(uint8_t byte) {
  return widen_f16(uint16_t((byte & 0x80u) << 8 | (byte & 0x7fu) << 7)) * 256.0f;
}

inline size_t element_size(Element element) {
  return element == Element::f32 ? 4 : element == Element::f16 || element == Element::bf16 ? 2 : 1;
}

inline float load_element(const uint8_t* p, Element element, size_t i) {
  if (element == Element::e8m0) return widen_e8m0(p[i]);
  if (element == Element::e4m3) return widen_e4m3(p[i]);
  if (element == Element::i8) return float(int8_t(p[i]));
  if (element == Element::f32) {
    float value;
    __builtin_memcpy(&value, p + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  __builtin_memcpy(&bits, p + 2 * i, 2);
  return element == Element::f16 ? widen_f16(bits) : widen_bf16(bits);
}

/// What a row's codes are, for templates: the width of unsigned ones, or one of these.
inline constexpr int kE2m1 = 64 + 4, kE4m3 = 64 + 8;
inline constexpr int bits_of(int code) { return code % 64; }
inline int code_of(const WeightRows& w) { return w.bits + (w.floats ? 64 : 0); }

/// e2m1 as the upper bytes of f16, whose lower ones are zero.
alignas(16) static constexpr uint8_t kE2m1Halves[16] = {0x00, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x46,
                                                        0x80, 0xb8, 0xbc, 0xbe, 0xc0, 0xc2, 0xc4, 0xc6};
/// e2m1 as unsigned codes of int8 products.
alignas(16) static constexpr uint8_t kE2m1Bytes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/// The bits of codes 0..7 and 8..15 of a run of 16, each from bit 0 up. Reads exactly 2·BITS bytes; higher bits are not
/// cleared.
template <int BITS>
inline void split_codes(const uint8_t* p, uint64_t& low, uint64_t& high) {
  if constexpr (BITS == 2) {
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    low = word;
    high = word >> 16;
  } else if constexpr (BITS == 3) {
    uint32_t a, b;
    __builtin_memcpy(&a, p, 4);
    __builtin_memcpy(&b, p + 2, 4);
    low = a;
    high = b >> 8;
  } else {
    static_assert(BITS == 4 || BITS == 5 || BITS == 6);
    __builtin_memcpy(&low, p, 8);
    if constexpr (BITS == 4) {
      high = low >> 32;
    } else {
      __builtin_memcpy(&high, p + 2 * BITS - 8, 8);
      high >>= 64 - 8 * BITS;
    }
  }
}

/// Eight codes from bit 0 up, a byte each: halves move apart, then quarters, then eighths.
template <int BITS>
inline uint64_t spread_codes(uint64_t x) {
  constexpr uint64_t four = (uint64_t{1} << (4 * BITS)) - 1;
  constexpr uint64_t two = ((uint64_t{1} << (2 * BITS)) - 1) * 0x0000000100000001u;
  constexpr uint64_t one = ((uint64_t{1} << BITS) - 1) * 0x0001000100010001u;
  x = (x & four) | (x >> (4 * BITS)) << 32;
  x = (x & two) | ((x >> (2 * BITS)) & two) << 16;
  return (x & one) | ((x >> BITS) & one) << 8;
}

/// Sixteen codes as bytes.
template <int BITS>
inline void unpack16(const uint8_t* p, uint8_t* q) {
  if constexpr (BITS == 8) {
    __builtin_memcpy(q, p, 16);
  } else {
    uint64_t low, high;
    split_codes<BITS>(p, low, high);
    low = spread_codes<BITS>(low);
    high = spread_codes<BITS>(high);
    __builtin_memcpy(q, &low, 8);
    __builtin_memcpy(q + 8, &high, 8);
  }
}
