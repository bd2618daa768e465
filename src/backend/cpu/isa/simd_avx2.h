// F32x16: sixteen f32 as two AVX2 registers. Half-width elements are widened when loaded (load_f16, load_bf16).
// Included inside an instruction set's own namespace.
#pragma once

struct F32x16 {
  __m256 lo, hi;
};

inline F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
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
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32x16 div(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline __m256 abs8(__m256 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline F32x16 abs(F32x16 a) { return {abs8(a.lo), abs8(a.hi)}; }
inline __m256 round8(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F32x16 round(F32x16 a) { return {round8(a.lo), round8(a.hi)}; }
/// a·2^n for integral n in [-126, 127]
inline __m256 scale2_8(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
inline F32x16 scale2(F32x16 a, F32x16 n) { return {scale2_8(a.lo, n.lo), scale2_8(a.hi, n.hi)}; }

/// One fixed tree for every instruction set: halves are added until one lane is left.
inline float reduce_add(F32x16 a) {
  const __m256 b = _mm256_add_ps(a.lo, a.hi);
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(F32x16 a) {
  const __m256 b = _mm256_max_ps(a.lo, a.hi);
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

inline __m256 widen_bf16(const void* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
}
inline F32x16 load_bf16(const void* p) { return {widen_bf16(p), widen_bf16(static_cast<const uint16_t*>(p) + 8)}; }
inline F32x16 load_f16(const void* p) {
  const auto* at = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
inline F32x16 load_i8(const void* p) {
  const auto* at = static_cast<const __m128i*>(p);
  const __m256i hi =
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(static_cast<const char*>(p) + 8)));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at))), _mm256_cvtepi32_ps(hi)};
}
inline F32x16 load_e8m0(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  const auto eight = [](__m128i b) {
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(b), 23);
    return _mm256_castsi256_ps(_mm256_max_epi32(bits, _mm256_set1_epi32(0x00400000)));
  };
  return {eight(bytes), eight(_mm_unpackhi_epi64(bytes, bytes))};
}
/// Sixteen f16.
inline F32x16 widen_halves(__m256i halves) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}
/// As the upper parts of f16, whose exponent counts from eight lower.
inline F32x16 load_e4m3(const void* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  const __m256i halves = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(words, 8), _mm256_set1_epi16(-0x8000)),
                                         _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(0x3f80)));
  return mul(widen_halves(halves), set1(256));
}
inline void store_f16(void* p, F32x16 a) {
  auto* at = static_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bf16(void* p, F32x16 a) {
  float t[16];
  store(t, a);
  narrow_bf16(t, 16, static_cast<uint16_t*>(p));
}

/// Sixteen codes of BITS bits from 2·BITS bytes, in order, as bytes.
template <int BITS>
inline __m128i codes16(const uint8_t* p) {
  if constexpr (BITS == 8) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  } else if constexpr (BITS == 4) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i mask = _mm_set1_epi8(15);
    return _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
  } else {
    uint64_t low, high;
    split_codes<BITS>(p, low, high);
    const uint64_t mask = 0x0101010101010101ull * ((1u << BITS) - 1u);
    return _mm_set_epi64x(int64_t(_pdep_u64(high, mask)), int64_t(_pdep_u64(low, mask)));
  }
}

/// w = q·scale + bias with one rounding.
template <int BITS>
struct Decoder {
  __m256 scale, bias;
  Decoder(float s, float b) : scale(_mm256_set1_ps(s)), bias(_mm256_set1_ps(b)) {}
  F32x16 operator()(const uint8_t* p) const {
    const __m128i q = codes16<BITS>(p);
    const __m256 lo = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q));
    const __m256 hi = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(q, q)));
    return {_mm256_fmadd_ps(lo, scale, bias), _mm256_fmadd_ps(hi, scale, bias)};
  }
};

/// w = code·scale with one rounding.
template <>
struct Decoder<kE2m1> {
  F32x16 scale;
  Decoder(float s, float) : scale(set1(s)) {}
  F32x16 operator()(const uint8_t* p) const {
    const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kE2m1Halves));
    const __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(table, codes16<4>(p)));
    return mul(widen_halves(_mm256_slli_epi16(words, 8)), scale);
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
