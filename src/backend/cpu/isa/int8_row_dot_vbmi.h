// Sums of a stripe where the codes that outliers meet are gathered (outliers_vbmi.h). Included after
// int8_row_dot_avx512.h.
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

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, I32x16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kBits>;
  constexpr int kInputs = Codes::kChunkInputs, kChunks = kLanes * BLOCK / kInputs, kCount = kInputs / 64;
  constexpr int kBlocks = kInputs / BLOCK;  // of a chunk
  const auto high = [&](int r) { return reinterpret_cast<const OutlierStripe*>(x.high + size_t(r) * x.stride); };
  __m512i quarters[ROWS][kChunks / 4], picked[ROWS];
  unroll<kChunks / 4>(BB_BODY(q) {
    I32x16 codes[4][kCount];
    unroll<4>(BB_BODY(i) {
      constexpr int kChunkAt = q * 4 + i;
      I32x16 c;
      if constexpr (Codes::kNibbles) {
        c = load_int(p + 64 * kChunkAt);
        asm("" : "+v"(c));  // loaded once: GCC would read it again for each half, and files' lines are seldom aligned
        codes[i][0] = Codes::low(c);
        codes[i][1] = Codes::high(c);
      } else {
        c = codes[i][0] = load_int(p + 64 * kChunkAt);
      }
      constexpr int kBytes = 4 * kBlocks;
      [[maybe_unused]] constexpr __mmask64 kOfChunk = ((uint64_t{1} << kBytes) - 1) << (kBytes * kChunkAt);
      unroll<ROWS>(BB_BODY(r) {
        const __m512i position = load_int(high(r)->position);
        if constexpr (kChunkAt == 0) {
          picked[r] = _mm512_permutexvar_epi8(position, c);
        } else {
          picked[r] = _mm512_mask_permutexvar_epi8(picked[r], kOfChunk, position, c);
        }
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
