// F32x16: sixteen f32 as one AVX-512 register. Half-width elements are widened when loaded (load_f16, load_bf16).
// Included inside an instruction set's own namespace.
#pragma once

struct F32x16 {
  __m512 v;
};

inline F32x16 zero() { return {_mm512_setzero_ps()}; }
inline F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1u); }
/// The first n lanes (n < 16); the others are zero.
inline F32x16 load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store_n(float* p, F32x16 a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 round(F32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
/// a·2^n for integral n
inline F32x16 scale2(F32x16 a, F32x16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

/// One fixed tree for every instruction set: halves are added until one lane is left.
inline __m256 add_halves(__m512 v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
inline float reduce_add(F32x16 a) {
  const __m256 b = add_halves(a.v);
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }

inline F32x16 load_bf16(const void* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}
inline F32x16 load_i8(const void* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
inline F32x16 load_f16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
inline F32x16 load_e8m0(const void* p) {
  const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 23);
  return {_mm512_castsi512_ps(_mm512_max_epi32(bits, _mm512_set1_epi32(0x00400000)))};
}
/// As the upper parts of f16, whose exponent counts from eight lower.
inline F32x16 load_e4m3(const void* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  const __m256i halves = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(words, 8), _mm256_set1_epi16(-0x8000)),
                                         _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(0x3f80)));
  return {_mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(256))};
}
inline void store_f16(void* p, F32x16 a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bf16(void* p, F32x16 a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}

/// Sixteen codes of BITS bits from 2·BITS bytes, in order.
template <int BITS>
inline __m512i codes16(const uint8_t* p) {
  if constexpr (BITS == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  } else if constexpr (BITS == 4) {
    const __m512i bytes = _mm512_castsi128_si512(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    return _mm512_srlv_epi32(_mm512_permutexvar_epi32(which, bytes), shift);  // higher bits stay: see Decoder
  } else if constexpr (BITS == 2) {
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    const __m512i shift = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_srlv_epi32(_mm512_set1_epi32(int(word)), shift);
  } else {
    uint64_t low, high;
    split_codes<BITS>(p, low, high);
    const uint64_t mask = 0x0101010101010101ull * ((1u << BITS) - 1u);
    const __m128i bytes = _mm_set_epi64x(int64_t(_pdep_u64(high, mask)), int64_t(_pdep_u64(low, mask)));
    return _mm512_cvtepu8_epi32(bytes);
  }
}

/// w = q·scale + bias with one rounding. Up to four bits the sixteen possible values are a table in a register.
template <int BITS>
struct Decoder {
  __m512 a, b;
  Decoder(float scale, float bias) {
    if constexpr (BITS <= 4) {
      __m512i q = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      q = _mm512_and_si512(q, _mm512_set1_epi32((1 << BITS) - 1));
      a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scale), _mm512_set1_ps(bias));
    } else {
      a = _mm512_set1_ps(scale);
      b = _mm512_set1_ps(bias);
    }
  }
  F32x16 operator()(const uint8_t* p) const {
    if constexpr (BITS <= 4) return {_mm512_permutexvar_ps(codes16<BITS>(p), a)};  // looks at the low four bits only
    return {_mm512_fmadd_ps(_mm512_cvtepi32_ps(codes16<BITS>(p)), a, b)};
  }
};

/// w = code·scale with one rounding.
template <>
struct Decoder<kE2m1> {
  __m512 table;
  Decoder(float scale, float) {
    const __m512 values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    table = _mm512_mul_ps(values, _mm512_set1_ps(scale));
  }
  F32x16 operator()(const uint8_t* p) const { return {_mm512_permutexvar_ps(codes16<4>(p), table)}; }
};
template <>
struct Decoder<kE4m3> {
  __m512 scale;
  Decoder(float s, float) : scale(_mm512_set1_ps(s)) {}
  F32x16 operator()(const uint8_t* p) const { return {_mm512_mul_ps(load_e4m3(p).v, scale)}; }
};

inline constexpr int kMatvecTile = kMatvecRows;      // rows of x that codes are decoded for at once
inline constexpr int kTileM = 4, kTileN = 6;         // dot_block: accumulators held at once
inline constexpr int kGemmRows = 6, kGemmSums = 24;  // small_gemm: rows, and sums of 16 columns held at once
