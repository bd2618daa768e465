// Sums of a round where high digits lie in the places of low ones (high_in_place.inl.h). Included after rows_avx512.h.
#pragma once

/// Sixteen lanes that add up to Σ codes·(low + 128·high) of the inputs they hold.
template <class D, int COUNT>
BB_INLINE I16 both_digits(const I16 (&codes)[COUNT], const int8_t* low, const int8_t* high) {
  typename D::Sum h = D::zero();
  unroll<COUNT>(BB_BODY(i) { h = D::step(h, codes[i], load_int(high + 64 * i)); });
  const I16 start = times128(D::total(h));
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

/// A round of one weight row at p times ROWS rows of x, both digits: sum[r] lane i is unit i.
template <class Codes, int UNIT, int ROWS>
BB_INLINE void unit_sums(const uint8_t* p, const RowDigits& x, I16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kBits>;
  constexpr int kInputs = Codes::kLineInputs, kLines = kLanes * UNIT / kInputs;
  __m512i line[ROWS][kLines];
  unroll<kLines>(BB_BODY(i) {
    I16 codes[kInputs / 64];
    if constexpr (Codes::kNibbles) {
      I16 c = load_int(p + 64 * i);
      asm("" : "+v"(c));  // loaded once: GCC would read it again for each half, and files' lines are seldom aligned
      codes[0] = Codes::low(c);
      codes[1] = Codes::high(c);
    } else {
      codes[0] = load_int(p + 64 * i);
    }
    unroll<ROWS>(BB_BODY(r) {
      const size_t at = size_t(r) * x.stride + i * kInputs;
      line[r][i] = both_digits<D>(codes, x.low + at, x.high + at);
    });
  });
  unroll<ROWS>(BB_BODY(r) {
    __m512i quarters[kLines / 4];
    unroll<kLines / 4>(BB_BODY(q) {
      quarters[q] = sum_quarters(line[r][4 * q], line[r][4 * q + 1], line[r][4 * q + 2], line[r][4 * q + 3]);
    });
    sum[r] = round_of(quarters);
  });
}
