// Sums of a stripe where the codes that outliers meet are gathered, of two chunks at a time (outliers_vbmi.h). Included
// after int8_row_dot_avx512.h.
#pragma once

#include "backend/cpu/isa/int8_row_dot_avx512.h"

/// Four chunks of sums that share codes: quarter L of the result has those of quarter L of each.
template <class Codes, class D, int COUNT>
BB_INLINE __m512i low_sums(const I32x16 (&codes)[4][COUNT], const int8_t* low) {
  __m512i chunk[4];
  unroll<4>(BB_BODY(i) {
    typename D::Sum s = D::zero();
    unroll<COUNT>(BB_BODY(j) { s = D::step(s, codes[i][j], load_int(low + (i * COUNT + j) * 64)); });
    chunk[i] = D::total(s);
  });
  // A lane has eight products, below 24·127 each, or 15·127.
  if constexpr (Codes::kNibbles)
    return sum_narrow_quarters < Codes::kFloats ? 2 : 4 > (chunk[0], chunk[1], chunk[2], chunk[3]);
  return sum_quarters(chunk[0], chunk[1], chunk[2], chunk[3]);
}

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i. Chunks past `inputs` may
/// be left out, four at a time: their sums are zero.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kBits>;
  constexpr int kInputs = Codes::kChunkInputs, kChunks = kLanes * BLOCK / kInputs, kCount = kInputs / 64;
  constexpr int kBlocks = kInputs / BLOCK;  // of a chunk
  const auto high = [&](int r) { return reinterpret_cast<const OutlierStripe*>(x.high + size_t(r) * x.stride); };
  __m512i quarters[ROWS][kChunks / 4], picked[ROWS];
  unroll<kChunks / 4>(BB_BODY(q) {
    if (q > 0 && inputs <= q * 4 * kInputs) {
      unroll<ROWS>(BB_BODY(r) { quarters[r][q] = int_zero(); });
      return;
    }
    I32x16 codes[4][kCount];
    unroll<2>(BB_BODY(j) {
      I32x16 c[2];
      unroll<2>(BB_BODY(m) {
        constexpr int kOfFour = j * 2 + m;
        c[m] = load_int(p + 64 * (q * 4 + kOfFour));
        if constexpr (Codes::kNibbles) {
          asm(""
              : "+v"(c[m]));  // loaded once: GCC would read it again for each half, and files' lines are seldom aligned
          codes[kOfFour][0] = Codes::low(c[m]);
          codes[kOfFour][1] = Codes::high(c[m]);
        } else {
          codes[kOfFour][0] = c[m];
        }
      });
      // Positions become the bytes that lie there, a pair's after the other's. (Positions whose chunks are left out
      // stay, and meet zeros.)
      constexpr int kPair = q * 2 + j, kBytes = 2 * kBlocks * 4;  // of a pair's outliers
      constexpr __mmask64 kOfPair = ((uint64_t{1} << kBytes) - 1) << (kBytes * kPair);
      unroll<ROWS>(BB_BODY(r) {
        if constexpr (kPair == 0) picked[r] = load_int(high(r)->position);
        picked[r] = _mm512_mask2_permutex2var_epi8(c[0], picked[r], kOfPair, c[1]);
      });
    });
    unroll<ROWS>(
        BB_BODY(r) { quarters[r][q] = low_sums<Codes, D>(codes, x.low + size_t(r) * x.stride + q * 4 * kInputs); });
  });
  unroll<ROWS>(BB_BODY(r) {
    typename D::Sum h = D::zero();
    if constexpr (Codes::kNibbles) {
      h = D::step(h, Codes::low(picked[r]), load_int(high(r)->low));
      h = D::step(h, Codes::high(picked[r]), load_int(high(r)->high));
    } else {
      h = D::step(h, picked[r], load_int(high(r)->low));
    }
    sum[r] = add(stripe_of(quarters[r]), times128(D::total(h)));
  });
}
