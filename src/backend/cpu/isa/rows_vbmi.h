// Sums of a round where the codes that outliers meet are gathered (high_vbmi.h). Included after rows_avx512.h.
#pragma once

/// Four lines of sums that share codes: quarter L of the result has those of quarter L of each.
template <class D, int COUNT>
BB_INLINE __m512i low_sums(const I16 (&codes)[4][COUNT], const int8_t* low) {
  __m512i line[4];
  unroll<4>(BB_BODY(i) {
    typename D::Sum s = D::zero();
    unroll<COUNT>(BB_BODY(j) { s = D::step(s, codes[i][j], load_int(low + (i * COUNT + j) * 64)); });
    line[i] = D::total(s);
  });
  return sum_quarters(line[0], line[1], line[2], line[3]);
}

/// A round of one weight row at p times ROWS rows of x, both digits: sum[r] lane i is unit i.
template <class Codes, int UNIT, int ROWS>
BB_INLINE void unit_sums(const uint8_t* p, const RowDigits& x, I16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kBits>;
  constexpr int kInputs = Codes::kLineInputs, kLines = kLanes * UNIT / kInputs, kCount = kInputs / 64;
  constexpr int kUnits = kInputs / UNIT;  // of a line
  const auto high = [&](int r) { return reinterpret_cast<const HighRound*>(x.high + size_t(r) * x.stride); };
  __m512i quarters[ROWS][kLines / 4], picked[ROWS];
  unroll<kLines / 4>(BB_BODY(q) {
    I16 codes[4][kCount];
    unroll<4>(BB_BODY(i) {
      constexpr int kLineAt = q * 4 + i;
      I16 c;
      if constexpr (Codes::kNibbles) {
        c = load_int(p + 64 * kLineAt);
        asm("" : "+v"(c));  // loaded once: GCC would read it again for each half, and files' lines are seldom aligned
        codes[i][0] = Codes::low(c);
        codes[i][1] = Codes::high(c);
      } else {
        c = codes[i][0] = load_int(p + 64 * kLineAt);
      }
      constexpr int kBytes = 4 * kUnits;
      constexpr __mmask64 kOfLine = ((uint64_t{1} << kBytes) - 1) << (kBytes * kLineAt);
      unroll<ROWS>(BB_BODY(r) {
        const __m512i place = load_int(high(r)->place);
        if constexpr (kLineAt == 0) {
          picked[r] = _mm512_permutexvar_epi8(place, c);
        } else {
          picked[r] = _mm512_mask_permutexvar_epi8(picked[r], kOfLine, place, c);
        }
      });
    });
    unroll<ROWS>(BB_BODY(r) { quarters[r][q] = low_sums<D>(codes, x.low + size_t(r) * x.stride + q * 4 * kInputs); });
  });
  unroll<ROWS>(BB_BODY(r) {
    typename D::Sum h = D::zero();
    if constexpr (Codes::kNibbles) {
      h = D::step(h, Codes::low(picked[r]), load_int(high(r)->low));
      h = D::step(h, Codes::high(picked[r]), load_int(high(r)->high));
    } else {
      h = D::step(h, picked[r], load_int(high(r)->low));
    }
    sum[r] = add(round_of(quarters[r]), times128(D::total(h)));
  });
}
