// Codes of a weight row as bytes, with AVX2. Included after int8.inl.h.
#pragma once

/// Bytes ahead of a row's reads: far enough that the next page's address is looked up in time.
inline constexpr size_t kRowAhead = 8192;
BB_INLINE void prefetch_row(const void* p) { prefetch(p); }

struct RowCodes {
  __m256i lo, hi;
};

/// 64 codes of a row as bytes: even ones and odd ones, or as they come.
template <class Codes>
BB_INLINE RowCodes row_codes(const uint8_t* p) {
  const auto* at = reinterpret_cast<const __m256i*>(p);
  if constexpr (Codes::kNibbles) {
    const __m256i mask = _mm256_set1_epi8(15), c = _mm256_loadu_si256(at);
    const RowCodes codes = {_mm256_and_si256(c, mask), _mm256_and_si256(_mm256_srli_epi16(c, 4), mask)};
    if constexpr (!Codes::kFloats) return codes;
    return {lookup32(kE2m1Bytes, codes.lo), lookup32(kE2m1Bytes, codes.hi)};
  } else {
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
}
