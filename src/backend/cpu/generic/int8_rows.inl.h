// A few rows of int8 activations against weight rows, each of which is read from end to end, as one stream that
// hardware follows. A register holds a round: the sums of sixteen units, a lane each. unit_sums() and kRowAhead come
// from the instruction set. Included after int8.inl.h.
#pragma once

/// The scales (or biases) of the round of units that begins with group g of row n; groups past the row's end are zero.
inline F16 round_scales(const uint8_t* p, Element element, const WeightRows& w, int n, int last, int g,
                        bool two_units) {
  const size_t size = element == Element::f32 ? 4 : 2, groups = size_t(w.in / w.group);
  const int left = w.in / w.group - g, wanted = two_units ? kLanes / 2 : kLanes;
  p += (size_t(n) * groups + size_t(g)) * size;
  // Eight more than wanted may be read where other rows follow.
  const bool whole = left >= wanted && (!two_units || size_t(n) * groups + size_t(g) + kLanes <= size_t(last) * groups);
  const F16 s = whole ? load_elements(p, element) : load_elements_n(p, element, left < wanted ? left : wanted);
  return two_units ? each_twice(s) : s;
}

/// The codes of a round that cannot be used as they lie in `out`, with codes of zero past the row's end.
[[gnu::noinline]] inline const uint8_t* stage_round(const uint8_t* p, int bits, int inputs, int all, uint8_t* out) {
  if (inputs < all) __builtin_memset(out, 0, size_t(all));
  unpack_codes(p, bits, inputs, out);
  return out;
}

/// One row of w times ROWS rows of x, by lanes; the first high digits are `high` bytes after the first low ones.
template <class Codes, int UNIT, int ROWS>
BB_INLINE void row_lanes(const WeightRows& w, int n, int last, const QuantRows& x, size_t high, F16 (&acc)[ROWS]) {
  constexpr int kDepth = kLanes * UNIT;
  alignas(64) uint8_t staged[kDepth];
  const int bits = Codes::kNibbles ? 4 : w.bits;
  const size_t bytes = size_t(kDepth) * size_t(bits) / 8;
  const bool staging = !Codes::kNibbles && !used_as_they_lie(bits);
  const bool two_units = w.group > UNIT;
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes;
  unroll<ROWS>(BB_BODY(r) { acc[r] = zero(); });
  const int8_t* high_round = x.values + high;
  for (int k = 0; k < w.in; k += kDepth, p += bytes, high_round += kHighRound<UNIT>) {
    const RowDigits digits = {x.values + k, high_round, x.stride};
    const int inputs = w.in - k < kDepth ? w.in - k : kDepth;
    if (kRowAhead > 0 && inputs == kDepth) {
      if constexpr (Codes::kNibbles) {
        unroll<kDepth / 128>(BB_BODY(i) { prefetch(p + kRowAhead + 64 * i); });
      } else {
        for (size_t i = 0; i < bytes; i += 128) {
          prefetch(p + kRowAhead + i);
          prefetch(p + kRowAhead + i + 64);
        }
      }
    }
    const uint8_t* codes = staging || inputs < kDepth ? stage_round(p, bits, inputs, kDepth, staged) : p;
    I16 sum[ROWS];
    unit_sums<Codes, UNIT, ROWS>(codes, digits, sum);
    const int u = k / UNIT, g = two_units ? u / 2 : u;
    const F16 s = round_scales(w.scales, w.element, w, n, last, g, two_units);
    const F16 b = round_scales(w.biases, w.bias_element, w, n, last, g, two_units);
    unroll<ROWS>(BB_BODY(r) {
      const size_t at = size_t(r) * x.unit_stride + size_t(u);
      acc[r] = fma(mul(to_float(sum[r]), s), load(x.scales + at), acc[r]);
      acc[r] = fma(b, load(x.sums + at), acc[r]);
    });
  }
}

/// `count` weight rows from n on, at most 16, times ROWS rows of x.
template <class Codes, int UNIT, int ROWS>
inline void direct_rows(const WeightRows& w, int n, int count, int last, const QuantRows& x, size_t high, float* y,
                        size_t y_stride) {
  alignas(64) float lanes[ROWS][16][kLanes] = {};
  for (int i = 0; i < count; ++i) {
    F16 acc[ROWS];
    row_lanes<Codes, UNIT, ROWS>(w, n + i, last, x, high, acc);
    unroll<ROWS>(BB_BODY(r) { store(lanes[r][i], acc[r]); });
  }
  for (int r = 0; r < ROWS; ++r) {
    I16 t[16];
    for (int i = 0; i < 16; ++i) t[i] = load_int(lanes[r][i]);
    transpose(t);
    F16 sum = zero();
    for (int i = 0; i < kLanes; ++i) sum = add(sum, as_float(t[i]));
    float* out = y + size_t(r) * y_stride + size_t(n);
    if (count == 16) {
      store(out, sum);
    } else {
      store_n(out, sum, count);
    }
  }
}

/// Weight rows [first, last) times a few rows of x, two at a time, for which sixteen weight rows stay in the cache.
template <class Codes, int UNIT>
inline void int8_direct_rows(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride) {
  const size_t high = size_t(rows) * x.stride;
  for (int n = first; n < last; n += 16) {
    const int count = last - n < 16 ? last - n : 16;
    int r = 0;
    for (; r + 2 <= rows; r += 2)
      direct_rows<Codes, UNIT, 2>(w, n, count, last, x.from(r), high, y + size_t(r) * y_stride, y_stride);
    if (r < rows) direct_rows<Codes, UNIT, 1>(w, n, count, last, x.from(r), high, y + size_t(r) * y_stride, y_stride);
  }
}

template <class Codes>
inline void int8_direct_codes(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                              size_t y_stride) {
  if (w.group == 32) return int8_direct_rows<Codes, 32>(w, first, last, x, rows, y, y_stride);
  return int8_direct_rows<Codes, 64>(w, first, last, x, rows, y, y_stride);
}

inline void int8_direct(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride) {
  if (w.bits == 4) return int8_direct_codes<NibbleCodes>(w, first, last, x, rows, y, y_stride);
  if constexpr (kNarrowBits < 8) {
    if (w.bits > kNarrowBits) return int8_direct_codes<ByteCodes<false>>(w, first, last, x, rows, y, y_stride);
  }
  return int8_direct_codes<ByteCodes<true>>(w, first, last, x, rows, y, y_stride);
}
