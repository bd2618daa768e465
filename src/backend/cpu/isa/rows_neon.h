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

/// Sums of kRowStep inputs of one weight row at p: out[r·out_stride + u] is that of unit u times x row r.
template <int BITS, int UNIT, int ROWS>
BB_INLINE void row_sums(const uint8_t* p, const int8_t* x, size_t x_stride, int32_t* out, size_t out_stride) {
  using D = DotOf<BITS>;
  constexpr int kParts = kQuantGroup / UNIT;
  unroll<2>(BB_BODY(half) {
    int32x4_t part[4][kParts][ROWS];
    unroll<4>(BB_BODY(i) {
      constexpr int kAt = (4 * half + i) * kQuantGroup;
      const I16 codes = row_codes<BITS, UNIT>(p + kAt * BITS / 8);
      unroll<ROWS>(BB_BODY(r) {
        const I16 s = D::total(D::step(D::zero(), codes, load_int(x + size_t(r) * x_stride + kAt)));
        const int32x4_t a = vaddq_s32(s.v[0], s.v[1]), b = vaddq_s32(s.v[2], s.v[3]);
        if constexpr (kParts == 1) {
          part[i][0][r] = vaddq_s32(a, b);
        } else {
          part[i][0][r] = a;
          part[i][1][r] = b;
        }
      });
    });
    unroll<ROWS>(BB_BODY(r) {
      int32x4_t sum[kParts];
      unroll<kParts>(BB_BODY(u) {
        sum[u] = vpaddq_s32(vpaddq_s32(part[0][u][r], part[1][u][r]), vpaddq_s32(part[2][u][r], part[3][u][r]));
      });
      int32_t* to = out + size_t(r) * out_stride + half * 4 * kParts;
      if constexpr (kParts == 1) {
        vst1q_s32(to, sum[0]);
      } else {
        vst1q_s32(to, vzip1q_s32(sum[0], sum[1]));
        vst1q_s32(to + 4, vzip2q_s32(sum[0], sum[1]));
      }
    });
  });
}

/// total[u] lane i = sums[i·stride + u] for eight units and sixteen rows.
BB_INLINE void load_sums(const int32_t* sums, size_t stride, I16 (&total)[8]) {
  for (int i = 0; i < 4; ++i) {
    for (int u = 0; u < 8; u += 4) {
      const int32_t* at = sums + size_t(4 * i) * stride + u;
      int32x4_t a = vld1q_s32(at), b = vld1q_s32(at + stride), c = vld1q_s32(at + 2 * stride),
                d = vld1q_s32(at + 3 * stride);
      transpose4(a, b, c, d);
      total[u].v[i] = a;
      total[u + 1].v[i] = b;
      total[u + 2].v[i] = c;
      total[u + 3].v[i] = d;
    }
  }
}
