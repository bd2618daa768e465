// A few rows of int8 activations against sixteen weight rows: every weight row is read from end to end, as one stream
// that hardware follows, and leaves the integer sums of its units in scratch; then sixteen rows are the lanes of a
// register. For instruction sets whose registers cannot hold a transposition of codes. row_sums() and load_sums() come
// from the instruction set. Included after int8.inl.h.
#pragma once

/// Far enough that the next page's address is looked up in time.
inline constexpr size_t kRowAhead = 8192;  // bytes

/// The sums of inputs [k0, k1) of one row: out[r·out_stride + unit], room for those of whole steps.
template <int BITS, int UNIT, int ROWS>
inline void unit_sums(const uint8_t* row, int k0, int k1, const QuantRows& x, int32_t* out, size_t out_stride) {
  constexpr int kBytes = kRowStep * BITS / 8;
  const uint8_t* p = row + size_t(k0) * BITS / 8;
  int k = k0;
  for (; k + kRowStep <= k1; k += kRowStep, p += kBytes, out += kRowStep / UNIT) {
    unroll<(kBytes + 63) / 64>(BB_BODY(i) { prefetch(p + kRowAhead + 64 * i); });
    row_sums<BITS, UNIT, ROWS>(p, x.values + k, x.stride, out, out_stride);
  }
  if (k < k1) {
    alignas(64) uint8_t codes[kBytes] = {};
    __builtin_memcpy(codes, p, size_t((k1 - k) * BITS / 8));
    row_sums<BITS, UNIT, ROWS>(codes, x.values + k, x.stride, out, out_stride);
  }
}

/// The scales and biases that row `n` of w will need.
inline void prefetch_scales(const WeightRows& w, int n) {
  const size_t size = size_t(w.in / w.group) * (w.element == Element::f32 ? 4 : 2);
  for (size_t at = size_t(n) * size; at < size_t(n + 1) * size; at += 64) {
    prefetch(w.scales + at);
    prefetch(w.biases + at);
  }
}

/// Sixteen rows of w times ROWS rows of x; their high digits are ROWS rows more.
template <int BITS, int UNIT, int ROWS>
inline void int8_tile(const WeightRows& w, int n, int last, const QuantRows& x, float* y, size_t y_stride,
                      void* scratch) {
  const TileRows rows(w, n, last);
  const int per_group = w.group / UNIT;
  // As many inputs at once as scratch has room for, a whole number of steps and of sixteen groups.
  constexpr int kDigits = 2 * ROWS;
  constexpr int kDepth = int(kInt8Scratch / (sizeof(int32_t) * 16 * kDigits)) * UNIT / 2048 * 2048;
  static_assert(kDepth > 0);
  auto* sums = static_cast<int32_t*>(scratch);  // [16 rows][kDigits][units]
  alignas(64) float scale[256], bias[256];
  F16 acc[ROWS];
  for (int r = 0; r < ROWS; ++r) acc[r] = zero();
  for (int k0 = 0; k0 < w.in; k0 += kDepth) {
    const int k1 = w.in - k0 < kDepth ? w.in : k0 + kDepth, units = (k1 - k0) / UNIT;
    const size_t stride = size_t(k1 - k0 + kRowStep - 1) / kRowStep * (kRowStep / UNIT);
    for (int i = 0; i < 16; ++i) {
      prefetch_scales(w, n + 16 + i);
      unit_sums<BITS, UNIT, kDigits>(rows.at(i), k0, k1, x, sums + size_t(i) * kDigits * stride, stride);
    }
    for (int u0 = 0; u0 < units; u0 += 8) {
      const int first = k0 / UNIT + u0;  // of the whole row
      if (first % (16 * per_group) == 0) {
        const int g = first / per_group, left = w.in / w.group - g, count = left < 16 ? left : 16;
        load_scale_lanes<16>(w.scales, w.element, w, n, last, g, count, scale);
        load_scale_lanes<16>(w.biases, w.bias_element, w, n, last, g, count, bias);
      }
      I16 total[kDigits][8];
      for (int r = 0; r < kDigits; ++r) load_sums(sums + size_t(r) * stride + size_t(u0), kDigits * stride, total[r]);
      const int count = units - u0 < 8 ? units - u0 : 8;
      for (int u = 0; u < count; ++u) {
        const size_t at = size_t(first + u), lane = size_t(16) * (at / size_t(per_group) % 16);
        const F16 s = load(scale + lane), b = load(bias + lane);
        unroll<ROWS>(BB_BODY(r) {
          const F16 x_scale = set1(x.scales[size_t(r) * x.scale_stride + at * UNIT / kQuantGroup]);
          const I16 whole = add(times128(total[ROWS + r][u]), total[r][u]);
          acc[r] = fma(mul(to_float(whole), s), x_scale, acc[r]);
          acc[r] = fma(b, set1(x.sums[size_t(r) * x.sum_stride + at]), acc[r]);
        });
      }
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
