// Sums of products along weight rows, with AVX-512: a cache line of codes at a time; chunks are packed together before
// their lanes are summed. Included after int8.inl.h, before what sums a stripe.
#pragma once

/// Bytes ahead of a row's reads, into the second level: hardware follows the stream, but not past a page, and loses
/// rows of many inputs. Into the first, lines that far ahead take the places of those that are being read. What
/// is asked for behind a matrix of an expert is read in vain.
inline constexpr size_t kRowAhead = 16384;
BB_INLINE void prefetch_row(const void* p) { prefetch_far(p); }

/// Quarter L of the result: the sums of quarter L of a, b, c and d.
BB_INLINE __m512i sum_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i e = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i f = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(e, f), _mm512_unpackhi_epi64(e, f));
}
/// The same of sums that fit 16 bits, two lanes of which are added by a product: half of the shuffles where four lanes
/// fit 16 bits too, as 16·15·127 does (SUMMED is then 4), else two thirds of them.
template <int SUMMED>
BB_INLINE __m512i sum_narrow_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ones = _mm512_set1_epi16(1);
  const __m512i e = _mm512_madd_epi16(_mm512_packs_epi32(a, b), ones);
  const __m512i f = _mm512_madd_epi16(_mm512_packs_epi32(c, d), ones);
  if constexpr (SUMMED == 4) return _mm512_madd_epi16(_mm512_packs_epi32(e, f), ones);
  const __m512 g = _mm512_castsi512_ps(e), h = _mm512_castsi512_ps(f);
  return _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(g, h, 0x88)),
                          _mm512_castps_si512(_mm512_shuffle_ps(g, h, 0xdd)));
}
/// Quarters 0 and 1 of a and of b added, then 2 and 3 of both.
BB_INLINE __m512i add_neighbours(__m512i a, __m512i b) {
  return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/// The sums of sixteen blocks, in order, from quarters of chunks that hold one, two or four.
BB_INLINE I32x16 stripe_of(const __m512i (&q)[4]) {
  return add_neighbours(add_neighbours(q[0], q[1]), add_neighbours(q[2], q[3]));
}
BB_INLINE I32x16 stripe_of(const __m512i (&q)[2]) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15),
                                  add_neighbours(q[0], q[1]));
}
BB_INLINE I32x16 stripe_of(const __m512i (&q)[1]) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), q[0]);
}
