// Sums of a stripe where high bytes lie in the positions of low ones (outliers_in_place.inl.h). Included after
// int8_row_dot_avx512.h.
#pragma once

#include "backend/cpu/isa/int8_row_dot_avx512.h"

/// Sixteen lanes that add up to Σ codes·(low + 128·high) of the inputs they hold.
template <class D, int COUNT>
BB_INLINE I32x16 both_bytes(const I32x16 (&codes)[COUNT], const int8_t* low, const int8_t* high) {
  typename D::Sum h = D::zero();
  unroll<COUNT>(BB_BODY(i) { h = D::step(h, codes[i], load_int(high + 64 * i)); });
  const I32x16 start = times128(D::total(h));
  if constexpr (D::kSteps < 16) {
    typename D::Sum s = D::zero();
    unroll<COUNT>(BB_BODY(i) { s = D::step(s, codes[i], load_int(low + 64 * i)); });
    return add(start, D::total(s));
  } else {
    typename D::Sum s = D::from(start);
    unroll<COUNT>(BB_BODY(i) { s = D::step(s, codes[i], load_int(low + 64 * i)); });
    return D::total(s);
  }
}

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i. Chunks past `inputs` may
/// be left out, four at a time: their sums are zero.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kNibbles ? 4 : Codes::kBits>;  // two steps of codes up to 24 fit sums of 16 bits too
  constexpr int kInputs = Codes::kChunkInputs, kChunks = kLanes * BLOCK / kInputs;
  __m512i quarters[ROWS][kChunks / 4];
  unroll<kChunks / 4>(BB_BODY(q) {
    if (q > 0 && inputs <= q * 4 * kInputs) {
      unroll<ROWS>(BB_BODY(r) { quarters[r][q] = int_zero(); });
      return;
    }
    __m512i chunk[ROWS][4];
    unroll<4>(BB_BODY(i) {
      constexpr int kChunkAt = q * 4 + i;
      I32x16 codes[kInputs / 64];
      if constexpr (Codes::kNibbles) {
        I32x16 c = load_int(p + 64 * kChunkAt);
        asm("" : "+v"(c));  // loaded once: GCC would read it again for each half, and files' lines are seldom aligned
        codes[0] = Codes::low(c);
        codes[1] = Codes::high(c);
      } else {
        codes[0] = load_int(p + 64 * kChunkAt);
      }
      unroll<ROWS>(BB_BODY(r) {
        const size_t at = size_t(r) * x.stride + kChunkAt * kInputs;
        chunk[r][i] = both_bytes<D>(codes, x.low + at, x.high + at);
      });
    });
    unroll<ROWS>(BB_BODY(r) { quarters[r][q] = sum_quarters(chunk[r][0], chunk[r][1], chunk[r][2], chunk[r][3]); });
  });
  unroll<ROWS>(BB_BODY(r) { sum[r] = stripe_of(quarters[r]); });
}
