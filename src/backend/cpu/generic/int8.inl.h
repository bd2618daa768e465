// Fast mode: activations rounded to int8, integer sums inside a unit of 32 or 64 inputs, f32 across units. With
// x ≈ s·v, a unit of a weight row adds Σ (q·scale + bias)·x ≈ s·(scale·Σ q·v) + bias·(s·Σ v). Units are added in order,
// so every path gives the same bits. Sixteen weight rows are the lanes of a register: their codes are read as they lie
// in the file, a line of each row at a time, and transposed, which costs two shuffles per 64 codes and no horizontal
// sum. Included inside an instruction set's own namespace after its int and dot headers.
#pragma once

inline void quantize_row(const float* x, int count, QuantLayout layout, int8_t* values, float* scales, float* sums) {
  for (int g = 0; g * kQuantGroup < count; ++g, values += kQuantGroup) {
    const float* p = x + g * kQuantGroup;
    const int n = count - g * kQuantGroup < kQuantGroup ? count - g * kQuantGroup : kQuantGroup;
    float padded[kQuantGroup];
    if (n < kQuantGroup) {
      __builtin_memset(padded, 0, sizeof padded);
      __builtin_memcpy(padded, p, size_t(n) * 4);
      p = padded;
    }
    F16 v[4], highest = zero();
    for (int i = 0; i < 4; ++i) {
      v[i] = load(p + 16 * i);
      highest = max(highest, abs(v[i]));
    }
    const float most = reduce_max(highest);
    const float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
    scales[g] = scale;
    float half[2];  // sums of whole numbers below 2^24: exact in any order
    for (int i = 0; i < 4; ++i) {
      v[i] = round(mul(v[i], set1(inverse)));
      store_rounded(values + 16 * i, v[i]);
    }
    half[0] = reduce_add(add(v[0], v[1]));
    half[1] = reduce_add(add(v[2], v[3]));
    if (layout.unit == 64) {
      sums[g] = scale * (half[0] + half[1]);
    } else {
      sums[2 * g] = scale * half[0];
      if (n > 32) sums[2 * g + 1] = scale * half[1];
    }
    if (layout.nibbles) {
      for (int i = 0; i < kQuantGroup; i += 8) {
        int8_t t[8];
        for (int j = 0; j < 4; ++j) {
          t[j] = values[i + 2 * j];
          t[4 + j] = values[i + 2 * j + 1];
        }
        __builtin_memcpy(values + i, t, 8);
      }
    }
  }
}

inline constexpr size_t kPrefetchBytes = 512;

/// Sixteen weight rows from row n on; those past the last repeat it, and their results are dropped.
struct TileRows {
  const uint8_t* base;
  size_t stride;
  bool full;
  uint32_t row[16];
  TileRows(const WeightRows& w, int n, int last)
      : base(w.codes + size_t(n) * w.row_bytes), stride(w.row_bytes), full(n + 16 <= last) {
    for (int i = 0; i < 16; ++i) row[i] = uint32_t(n + i < last ? i : last - 1 - n);
  }
  const uint8_t* at(int i) const { return base + row[i] * stride; }
};

/// body(i, address of row i + offset) for all sixteen; four base addresses and a stride fit the registers.
template <class Body>
BB_INLINE void each_row(const TileRows& rows, size_t offset, const Body& body) {
  const size_t stride = rows.stride;
  const uint8_t* p = rows.base + offset;
  unroll<4>(BB_BODY(i) {
    unroll<4>(BB_BODY(j) { body(Index<4 * i + j>(), p + size_t(j) * stride); });
    p += 4 * stride;
  });
}

/// Codes of a row that one transposition takes: a cache line where codes can be used as they lie.
template <int BITS>
inline constexpr int kLineCodes = BITS == 4 ? 128 : 64;

/// t[i] = the i-th four bytes of codes k.. of all sixteen rows; `left` codes of the row are left.
template <int BITS>
BB_INLINE void load_line(const TileRows& rows, int k, int left, I16 (&t)[16]) {
  if constexpr (BITS == 4 || BITS == 8) {
    const size_t offset = size_t(k) * BITS / 8;
    if (rows.full && left >= kLineCodes<BITS>) {
      each_row(
          rows, offset, [&](auto i, const uint8_t* p) __attribute__((always_inline)) { t[i] = load_int(p); });
    } else if (left >= kLineCodes<BITS>) {
      for (int i = 0; i < 16; ++i) t[i] = load_int(rows.at(i) + offset);
    } else {
      for (int i = 0; i < 16; ++i) t[i] = load_int_n(rows.at(i) + offset, left * BITS / 8);
    }
  } else {
    const int count = left < 64 ? left : 64;
    for (int i = 0; i < 16; ++i) {
      alignas(64) uint8_t q[64] = {};
      for (int j = 0; j < count; j += 16) store_codes<BITS>(q + j, rows.at(i) + size_t(k + j) * BITS / 8);
      t[i] = load_int(q);
    }
  }
  transpose(t);
}

/// Step s of a line: four codes of each row, in the order of QuantLayout.
template <int BITS>
BB_INLINE I16 line_step(const I16 (&t)[16], int s) {
  if constexpr (BITS == 4) return s % 2 == 0 ? low_nibbles(t[s / 2]) : high_nibbles(t[s / 2]);
  return t[s];
}

/// out[STRIDE·g + lane] = the scale (or bias) of group g0 + g of row `lane`, g < count <= 16.
template <int STRIDE>
inline void load_scale_lanes(const uint8_t* p, Element element, const WeightRows& w, int n, int last, int g0, int count,
                             float* out) {
  const size_t size = element == Element::f32 ? 4 : 2, groups = size_t(w.in / w.group), end = size_t(last) * groups;
  I16 t[16];
  if (size_t(n + 15) * groups + size_t(g0) + 16 <= end) {  // more than `count` may be read, but not past the last row
    p += (size_t(n) * groups + size_t(g0)) * size;
    if (element == Element::bf16) {
      unroll<16>(BB_BODY(i) { t[i] = as_int(load_bf16(p + size_t(i) * groups * 2)); });
    } else {
      for (int i = 0; i < 16; ++i) t[i] = as_int(load_elements(p + size_t(i) * groups * size, element));
    }
  } else {
    for (int i = 0; i < 16; ++i) {
      const uint8_t* row = p + (size_t(n + i < last ? n + i : last - 1) * groups + size_t(g0)) * size;
      t[i] = as_int(load_elements_n(row, element, count));
    }
  }
  transpose(t);
  if (count == 16) {
    unroll<16>(BB_BODY(g) { store_int(out + STRIDE * g, t[g]); });
  } else {
    for (int g = 0; g < count; ++g) store_int(out + STRIDE * g, t[g]);
  }
}

template <bool WIDE>
struct DotChoice {
  using Type = Dot;
};
template <>
struct DotChoice<true> {
  using Type = WideDot;
};
template <int BITS>
using DotOf = typename DotChoice<(BITS > 4)>::Type;

/// Sixteen rows of w times ROWS rows of x, in registers.
template <int BITS, int UNIT, int ROWS>
inline void int8_tile(const WeightRows& w, int n, int last, const QuantRows& x, float* y, size_t y_stride) {
  using D = DotOf<BITS>;
  constexpr int kLine = kLineCodes<BITS>, kUnitSteps = UNIT / 4;
  constexpr int kChunk = kUnitSteps < D::kSteps ? kUnitSteps : D::kSteps;
  constexpr int kChains = ROWS == 1 ? 4 : ROWS == 2 ? 2 : 1;  // sums that do not wait for each other
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
    for (int k = g0 * w.group; k < end; k += kLine) {
      I16 t[16];
      load_line<BITS>(rows, k, w.in - k, t);
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
        unroll<kUnitSteps / kChunk>(BB_BODY(chunk) {
          typename D::Sum sum[ROWS][kChains];
          unroll<ROWS>(BB_BODY(r) { unroll<kChains>(BB_BODY(i) { sum[r][i] = D::zero(); }); });
          unroll<kChunk>(BB_BODY(i) {
            const int step = chunk * kChunk + i;
            const I16 codes = line_step<BITS>(t, u * kUnitSteps + step);
            unroll<ROWS>(BB_BODY(r) {
              sum[r][step % kChains] =
                  D::step_at(sum[r][step % kChains], codes, x.values + size_t(r) * x.stride + at + 4 * step);
            });
          });
          unroll<ROWS>(BB_BODY(r) {
            unroll<kChains>(
                BB_BODY(i) { total[r] = chunk + i == 0 ? D::total(sum[r][i]) : add(total[r], D::total(sum[r][i])); });
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

template <int BITS, int UNIT>
inline void int8_matvec(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride) {
  for (int n = first; n < last; n += 16) {
    switch (rows) {
      case 1: int8_tile<BITS, UNIT, 1>(w, n, last, x, y, y_stride); break;
      case 2: int8_tile<BITS, UNIT, 2>(w, n, last, x, y, y_stride); break;
      case 3: int8_tile<BITS, UNIT, 3>(w, n, last, x, y, y_stride); break;
      case 4: int8_tile<BITS, UNIT, 4>(w, n, last, x, y, y_stride); break;
      default:
        if constexpr (kDirectRows > 4) {
          switch (rows) {
            case 5: int8_tile<BITS, UNIT, 5>(w, n, last, x, y, y_stride); break;
            case 6: int8_tile<BITS, UNIT, 6>(w, n, last, x, y, y_stride); break;
            case 7: int8_tile<BITS, UNIT, 7>(w, n, last, x, y, y_stride); break;
            default: int8_tile<BITS, UNIT, 8>(w, n, last, x, y, y_stride);
          }
        }
    }
  }
}
