// Sixteen 32-bit lanes of integers, or 64 bytes, without vector instructions. Included inside an instruction set's own
// namespace after simd_scalar.h.
#pragma once

struct I32x16 {
  int32_t v[16];
};

inline I32x16 int_zero() { return {}; }
inline I32x16 load_int(const void* p) {
  I32x16 a;
  __builtin_memcpy(&a, p, 64);
  return a;
}
/// The first `bytes` (a multiple of 16, below 64); the others are zero and not read.
inline I32x16 load_int_n(const void* p, int bytes) {
  I32x16 a = {};
  __builtin_memcpy(&a, p, size_t(bytes));
  return a;
}
inline void store_int(void* p, I32x16 a) { __builtin_memcpy(p, &a, 64); }
inline I32x16 add(I32x16 a, I32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
  return a;
}
inline I32x16 times16(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] *= 16;
  return a;
}
inline I32x16 times128(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] *= 128;
  return a;
}
inline I32x16 int_set1(int a) {
  I32x16 b;
  for (int i = 0; i < 16; ++i) b.v[i] = a;
  return b;
}
inline I32x16 bit_and(I32x16 a, I32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] &= b.v[i];
  return a;
}
inline I32x16 bit_or(I32x16 a, I32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] |= b.v[i];
  return a;
}
inline F32x16 zero_where_equal(F32x16 a, F32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] == b.v[i] ? 0.0f : a.v[i];
  return a;
}
inline F32x16 to_float(I32x16 a) {
  F32x16 f;
  for (int i = 0; i < 16; ++i) f.v[i] = float(a.v[i]);
  return f;
}
inline I32x16 as_int(F32x16 a) { return load_int(&a); }
inline F32x16 as_float(I32x16 a) {
  F32x16 f;
  __builtin_memcpy(&f, &a, 64);
  return f;
}
/// The first eight lanes, each two times.
inline F32x16 dup_lanes(F32x16 a) {
  F32x16 b;
  for (int i = 0; i < 16; ++i) b.v[i] = a.v[i / 2];
  return b;
}
/// Bytes as they lie: the low or high four bits of each.
inline I32x16 low_nibbles(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] &= 0x0f0f0f0f;
  return a;
}
inline I32x16 high_nibbles(I32x16 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = int32_t((uint32_t(a.v[i]) >> 4) & 0x0f0f0f0fu);
  return a;
}
/// table[byte] for bytes below 16.
inline I32x16 lookup(const uint8_t (&table)[16], I32x16 bytes) {
  uint8_t q[64];
  __builtin_memcpy(q, &bytes, 64);
  for (uint8_t& byte : q) byte = table[byte];
  return load_int(q);
}
/// Four bytes in every lane.
inline I32x16 broadcast4(const int8_t* p) {
  I32x16 a;
  for (int i = 0; i < 16; ++i) __builtin_memcpy(&a.v[i], p, 4);
  return a;
}
/// Thirty-two bytes as words.
inline I32x16 widen_words(const int8_t* p) {
  int16_t words[32];
  for (int i = 0; i < 32; ++i) words[i] = p[i];
  return load_int(words);
}
/// The low halves of sixteen lanes.
inline void store_low_words(int16_t* p, I32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = int16_t(a.v[i]);
}
/// Sixteen floats, rounded to nearest even, as bytes.
inline void store_int8(int8_t* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) {
    const float r = __builtin_rintf(a.v[i]);
    p[i] = r >= 127 ? int8_t(127) : r >= -128 ? int8_t(r) : int8_t(-128);
  }
}
inline constexpr bool kUnpacks32 = false;
template <int BITS>
void store_codes32(uint8_t* out, const uint8_t* p);
/// Sixteen codes as bytes; reads 2·BITS of them.
template <int BITS>
inline void store_codes(uint8_t* out, const uint8_t* p) {
  unpack16<BITS>(p, out);
}
inline void prefetch(const void*) {}
inline void prefetch_far(const void*) {}
/// t[i] lane j <-> t[j] lane i
inline void transpose(I32x16 (&t)[16]) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < i; ++j) {
      const int32_t a = t[i].v[j];
      t[i].v[j] = t[j].v[i];
      t[j].v[i] = a;
    }
  }
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
