// A few rows of int8 activations against sixteen weight rows, which are the lanes of a register: codes are read as they
// lie in the file, a line of each row at a time, and transposed, which costs two shuffles per 64 codes and no
// horizontal sum. For instruction sets with registers of 64 bytes. Included after int8.inl.h.
#pragma once

inline constexpr size_t kPrefetchBytes = 512;

/// line_step from memory, for a step that is not known when compiling.
template <int BITS, int UNIT>
BB_INLINE I16 line_step_at(const int32_t* line, int u, int s) {
  constexpr int kHalf = UNIT / 8;
  if constexpr (BITS == 4) return nibbles_at(load_int(line + 16 * (u * kHalf + s % kHalf)), s / kHalf * 4);
  return load_int(line + 16 * (u * 2 * kHalf + s));
}

/// Sixteen rows of w times ROWS rows of x, in registers.
template <int BITS, int UNIT, int ROWS>
inline void int8_tile(const WeightRows& w, int n, int last, const QuantRows& x, float* y, size_t y_stride,
                      void* /*scratch*/) {
  using D = DotOf<BITS>;
  constexpr int kLine = kLineCodes<BITS>, kUnitSteps = UNIT / 4;
  constexpr int kChunk = kUnitSteps < D::kSteps ? kUnitSteps : D::kSteps;
  constexpr int kChains = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;  // sums that do not wait for each other
  const TileRows rows(w, n, last);
  const int groups = w.in / w.group, per_group = w.group / UNIT;
  alignas(64) float scale[256], bias[256];
  alignas(64) int32_t line[256];  // t, for outliers, whose steps are known only here
  F16 acc[ROWS];
  for (int r = 0; r < ROWS; ++r) acc[r] = zero();
  for (int g0 = 0; g0 < groups; g0 += 16) {
    const int count = groups - g0 < 16 ? groups - g0 : 16;
    load_scale_lanes<16>(w.scales, w.element, w, n, last, g0, count, scale);
    load_scale_lanes<16>(w.biases, w.bias_element, w, n, last, g0, count, bias);
    const int end = (g0 + count) * w.group;
    for (int k = g0 * w.group; k < end; k += kLine) {
      I16 t[16];
      load_line<BITS>(rows, k, w.in - k, t);
      unroll<16>(BB_BODY(i) { store_int(line + 16 * i, t[i]); });
      if constexpr (BITS == 4 || BITS == 8) {
        // Sixteen streams are more than the hardware follows; the next tile's rows continue these.
        size_t ahead = size_t(k) * BITS / 8 + kPrefetchBytes;
        if (ahead >= w.row_bytes) ahead += 15 * w.row_bytes;
        each_row(
            rows, ahead, [](auto, const uint8_t* p) __attribute__((always_inline)) { prefetch(p); });
      }
      unroll<kLine / UNIT>(BB_BODY(u) {
        const int at = k + u * UNIT;
        if (at >= end) return;
        I16 total[ROWS];
        unroll<ROWS>(BB_BODY(r) {
          typename D::Sum high = D::zero();
          const Outlier* outlier = x.outliers + size_t(r) * x.outlier_stride + size_t(at / UNIT * kOutliers);
          unroll<kOutliers>(BB_BODY(i) {
            high = D::step_at(high, line_step_at<BITS, UNIT>(line, u, int(outlier[i].step)),
                              reinterpret_cast<const int8_t*>(&outlier[i].quad));
          });
          total[r] = times128(D::total(high));
        });
        unroll<kUnitSteps / kChunk>(BB_BODY(chunk) {
          typename D::Sum sum[ROWS][kChains];
          unroll<ROWS>(BB_BODY(r) { unroll<kChains>(BB_BODY(i) { sum[r][i] = D::zero(); }); });
          unroll<kChunk>(BB_BODY(i) {
            const int step = chunk * kChunk + i;
            const I16 codes = line_step<BITS, UNIT>(t, u, step);
            unroll<ROWS>(BB_BODY(r) {
              sum[r][step % kChains] =
                  D::step_at(sum[r][step % kChains], codes, x.values + size_t(r) * x.stride + at + 4 * step);
            });
          });
          unroll<ROWS>(BB_BODY(r) {
            unroll<kChains>(
                BB_BODY(i) { total[r] = add(total[r], D::total(sum[r][i])); });
          });
        });
        const int g = at / UNIT / per_group - g0;
        const F16 s = load(scale + 16 * g), b = load(bias + 16 * g);
        unroll<ROWS>(BB_BODY(r) {
          const F16 x_scale = set1(x.scales[size_t(r) * x.scale_stride + size_t(at / kQuantGroup)]);
          acc[r] = fma(mul(to_float(total[r]), s), x_scale, acc[r]);
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
