// Sums of products along weight rows, with NEON. Included after int8.inl.h.
#pragma once

/// Bytes ahead of a row's reads: far enough that the next page's address is looked up in time.
inline constexpr size_t kRowAhead = 8192;
BB_INLINE void prefetch_row(const void* p) { prefetch(p); }

/// 64 codes of a row as bytes: even ones and odd ones, or as they come.
template <class Codes>
BB_INLINE I32x16 row_codes(const uint8_t* p) {
  if constexpr (Codes::kNibbles) {
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16), mask = vdupq_n_u8(15);
    const I32x16 codes = {{vreinterpretq_s32_u8(vandq_u8(a, mask)), vreinterpretq_s32_u8(vandq_u8(b, mask)),
                           vreinterpretq_s32_u8(vshrq_n_u8(a, 4)), vreinterpretq_s32_u8(vshrq_n_u8(b, 4))}};
    if constexpr (!Codes::kFloats) return codes;
    return lookup(kE2m1Bytes, codes);
  } else {
    return load_int(p);
  }
}

/// The 64 values of x that meet row_codes of group AT.
template <class Codes, int AT>
BB_INLINE I32x16 row_values(const int8_t* x) {
  if constexpr (!Codes::kNibbles) return load_int(x + AT * kQuantGroup);
  const auto* at = reinterpret_cast<const uint8_t*>(x) + AT / 2 * kNibbleChunk + AT % 2 * 32;
  const auto quads = [](const uint8_t* p) __attribute__((always_inline)) { return vreinterpretq_s32_u8(vld1q_u8(p)); };
  return {{quads(at), quads(at + 16), quads(at + kNibbleChunk / 2), quads(at + kNibbleChunk / 2 + 16)}};
}

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i. Quarters past `inputs`
/// are left out: their sums are zero.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  using D = DotOf<Codes::kBits>;
  constexpr int kParts = kQuantGroup / BLOCK;
  unroll<4 / kParts>(BB_BODY(quarter) {  // four groups of 64 inputs
    if (quarter > 0 && inputs <= quarter * 4 * kQuantGroup) {
      unroll<ROWS>(BB_BODY(r) { unroll<kParts>(BB_BODY(u) { sum[r].v[kParts * quarter + u] = vdupq_n_s32(0); }); });
      return;
    }
    int32x4_t part[4][kParts][ROWS];
    unroll<4>(BB_BODY(i) {
      constexpr int kAt = 4 * quarter + i;
      const I32x16 codes = row_codes<Codes>(p + kAt * (Codes::kNibbles ? 32 : 64));
      unroll<ROWS>(BB_BODY(r) {
        const size_t at = size_t(r) * x.stride;
        const I32x16 high = D::total(D::step(D::zero(), codes, row_values<Codes, kAt>(x.high + at)));
        const I32x16 s = D::total(D::step(D::from(times128(high)), codes, row_values<Codes, kAt>(x.low + at)));
        if constexpr (kParts == 1) {
          part[i][0][r] = vaddq_s32(vaddq_s32(s.v[0], s.v[1]), vaddq_s32(s.v[2], s.v[3]));
        } else if constexpr (Codes::kNibbles) {  // evens of both blocks, then odds
          part[i][0][r] = vaddq_s32(s.v[0], s.v[2]);
          part[i][1][r] = vaddq_s32(s.v[1], s.v[3]);
        } else {
          part[i][0][r] = vaddq_s32(s.v[0], s.v[1]);
          part[i][1][r] = vaddq_s32(s.v[2], s.v[3]);
        }
      });
    });
    unroll<ROWS>(BB_BODY(r) {
      int32x4_t whole[kParts];
      unroll<kParts>(BB_BODY(u) {
        whole[u] = vpaddq_s32(vpaddq_s32(part[0][u][r], part[1][u][r]), vpaddq_s32(part[2][u][r], part[3][u][r]));
      });
      if constexpr (kParts == 1) {
        sum[r].v[quarter] = whole[0];
      } else {
        sum[r].v[2 * quarter] = vzip1q_s32(whole[0], whole[1]);
        sum[r].v[2 * quarter + 1] = vzip2q_s32(whole[0], whole[1]);
      }
    });
  });
}
