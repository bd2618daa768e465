// Sums of products along weight rows, with NEON. Included after int8.inl.h.
#pragma once

/// 64 codes of a row as bytes, in the order of QuantLayout.
template <int BITS, int UNIT>
BB_INLINE I16 row_codes(const uint8_t* p) {
  if constexpr (BITS == 4) {
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), mask = vdupq_n_u8(15);
    const int32x4_t low[2] = {vreinterpretq_s32_u8(vandq_u8(a, mask)), vreinterpretq_s32_u8(vandq_u8(b, mask))};
    const int32x4_t high[2] = {vreinterpretq_s32_u8(vshrq_n_u8(a, 4)), vreinterpretq_s32_u8(vshrq_n_u8(b, 4))};
    if constexpr (UNIT == 64) return {{low[0], low[1], high[0], high[1]}};
    return {{low[0], high[0], low[1], high[1]}};
  } else if constexpr (BITS == 8) {
    return load_int(p);
  } else {
    alignas(64) uint8_t q[64];
    unroll<4>(BB_BODY(i) { store_codes<BITS>(q + 16 * i, p + 2 * BITS * i); });
    return load_int(q);
  }
}

/// total[u][r] lane i = the sum over unit u of codes of row i, at p + i·stride, times x row r.
template <int BITS, int UNIT, int ROWS>
BB_INLINE void row_sums(const uint8_t* p, size_t stride, const int8_t* x, size_t x_stride,
                        I16 (&total)[kQuantGroup / UNIT][ROWS]) {
  using D = DotOf<BITS>;
  constexpr int kUnits = kQuantGroup / UNIT;
  unroll<4>(BB_BODY(quad) {
    int32x4_t part[4][kUnits][ROWS];
    unroll<4>(BB_BODY(i) {
      const I16 codes = row_codes<BITS, UNIT>(p);
      p += stride;
      unroll<ROWS>(BB_BODY(r) {
        const I16 s = D::total(D::step(D::zero(), codes, load_int(x + size_t(r) * x_stride)));
        const int32x4_t a = vaddq_s32(s.v[0], s.v[1]), b = vaddq_s32(s.v[2], s.v[3]);
        if constexpr (kUnits == 1) {
          part[i][0][r] = vaddq_s32(a, b);
        } else {
          part[i][0][r] = a;
          part[i][1][r] = b;
        }
      });
    });
    unroll<ROWS>(BB_BODY(r) {
      unroll<kUnits>(BB_BODY(u) {
        total[u][r].v[quad] =
            vpaddq_s32(vpaddq_s32(part[0][u][r], part[1][u][r]), vpaddq_s32(part[2][u][r], part[3][u][r]));
      });
    });
  });
}
