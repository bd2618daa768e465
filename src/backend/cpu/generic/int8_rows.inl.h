// A few rows of int8 activations against sixteen weight rows, 64 inputs at a time: products are summed along each
// weight row, and sums of sixteen rows become the lanes of a register. For instruction sets whose registers cannot hold
// a transposition. row_sums() comes from the instruction set. Included after int8.inl.h.
#pragma once

inline constexpr size_t kPrefetchBytes = 512;

/// Sixteen rows of w times ROWS rows of x, in registers.
template <int BITS, int UNIT, int ROWS>
inline void int8_tile(const WeightRows& w, int n, int last, const QuantRows& x, float* y, size_t y_stride) {
  constexpr int kUnits = kQuantGroup / UNIT, kBytes = kQuantGroup * BITS / 8;
  const TileRows rows(w, n, last);
  const int groups = w.in / w.group, per_group = w.group / UNIT;
  alignas(64) float scale[256], bias[256];
  F16 acc[ROWS];
  for (int r = 0; r < ROWS; ++r) acc[r] = zero();
  for (int g0 = 0; g0 < groups; g0 += 16) {
    const int count = groups - g0 < 16 ? groups - g0 : 16;
    load_scale_lanes<16>(w.scales, w.element, w, n, last, g0, count, scale);
    load_scale_lanes<16>(w.biases, w.bias_element, w, n, last, g0, count, bias);
    const int end = (g0 + count) * w.group;
    for (int k = g0 * w.group; k < end; k += kQuantGroup) {
      const size_t offset = size_t(k) * BITS / 8;
      const int8_t* values = x.values + k;
      I16 total[kUnits][ROWS];
      if (rows.full && k + kQuantGroup <= end) {
        if (offset % 64 < size_t(kBytes)) {
          // Sixteen streams are more than the hardware follows; the next tile's rows continue these.
          size_t ahead = offset + kPrefetchBytes;
          if (ahead >= w.row_bytes) ahead += 15 * w.row_bytes;
          each_row(
              rows, ahead, [](auto, const uint8_t* p) __attribute__((always_inline)) { prefetch(p); });
        }
        row_sums<BITS, UNIT, ROWS>(rows.base + offset, rows.stride, values, x.stride, total);
      } else {
        alignas(64) uint8_t codes[16][kBytes] = {};
        const int left = end - k < kQuantGroup ? end - k : kQuantGroup;
        for (int i = 0; i < 16; ++i) __builtin_memcpy(codes[i], rows.at(i) + offset, size_t(left * BITS / 8));
        row_sums<BITS, UNIT, ROWS>(codes[0], kBytes, values, x.stride, total);
      }
      unroll<kUnits>(BB_BODY(u) {
        const int at = k + u * UNIT;
        if (at >= end) return;
        const int g = at / UNIT / per_group - g0;
        const F16 s = load(scale + 16 * g), b = load(bias + 16 * g);
        unroll<ROWS>(BB_BODY(r) {
          const F16 x_scale = set1(x.scales[size_t(r) * x.scale_stride + size_t(at / kQuantGroup)]);
          acc[r] = fma(mul(to_float(total[u][r]), s), x_scale, acc[r]);
          acc[r] = fma(b, set1(x.sums[size_t(r) * x.sum_stride + size_t(at / UNIT)]), acc[r]);
        });
      });
    }
  }
  const int lanes = last - n;
  for (int r = 0; r < ROWS; ++r) {
    float* out = y + size_t(r) * y_stride + size_t(n);
    if (lanes >= 16) {
      store(out, acc[r]);
    } else {
      store_n(out, acc[r], lanes);
    }
  }
}
