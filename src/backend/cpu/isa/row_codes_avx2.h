// Codes of a weight row as bytes, with AVX2. Included after int8.inl.h.
#pragma once

/// Bytes ahead of a row's reads: far enough that the next page's address is looked up in time.
inline constexpr size_t kRowAhead = 8192;
BB_INLINE void prefetch_row(const void* p) { prefetch(p); }

struct RowCodes {
  __m256i lo, hi;
};

/// The codes of bytes that have two: low halves and high ones.
template <class Codes>
BB_INLINE RowCodes halves_of(__m256i bytes) {
  const __m256i mask = _mm256_set1_epi8(15);
  const RowCodes codes = {_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask)};
  if constexpr (!Codes::kFloats) return codes;
  return {lookup32(kE2m1Bytes, codes.lo), lookup32(kE2m1Bytes, codes.hi)};
}

/// 64 codes of a row as bytes: even ones and odd ones, or as they come.
template <class Codes>
BB_INLINE RowCodes row_codes(const uint8_t* p) {
  const auto* at = reinterpret_cast<const __m256i*>(p);
  if constexpr (Codes::kNibbles) {
    return halves_of<Codes>(_mm256_loadu_si256(at));
  } else {
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
}
