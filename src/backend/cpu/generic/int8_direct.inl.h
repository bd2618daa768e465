// A few rows of int8 activations against weight rows, each of which is read from end to end, as one stream that
// hardware follows. A register holds a stripe: the sums of sixteen blocks, a lane each. block_sums(), kRowAhead and
// prefetch_row() come from the instruction set. Included after int8.inl.h.
#pragma once

/// Of sixteen lanes the first ones: kFirstLanes + 16 - count.
alignas(64) static constexpr int32_t kFirstLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                        0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

/// Bytes of scales and of biases that are asked for ahead of a row's reads, where its codes are: a row has few of them,
/// so hardware sees a stream only after many rows, and a product waits for each of their lines.
inline constexpr size_t kScalesAhead = 1024;

/// Scales (or biases) of sixteen blocks. BF16: they are known to be that.
template <bool BF16>
BB_INLINE F32x16 load_scales(const uint8_t* at, Element element) {
  if constexpr (BF16) return load_bf16(at);
  return load_elements(at, element);
}

/// The scales (or biases) of row n, a stripe of blocks at a time. BF16: they are known to be that.
template <bool BF16>
struct RowScales {
  const uint8_t* p;  // of the row
  Element element;
  size_t size;      // of an element
  int groups;       // of the row
  size_t readable;  // elements from p on: other rows may follow
  RowScales(const uint8_t* scales, Element of, int row_groups, int n, int last)
      : element(of), size(element_size(of)), groups(row_groups) {
    p = scales + size_t(n) * size_t(groups) * size;
    readable = size_t(last - n) * size_t(groups);
  }
  void next_row() {
    p += size_t(groups) * size;
    readable -= size_t(groups);
  }
  /// Those of the stripe that begins with group g; groups past the row's end are zero.
  template <bool E8M0>
  F32x16 stripe(int g, bool two_blocks) const {
    const int left = groups - g, wanted = two_blocks ? kLanes / 2 : kLanes;
    const uint8_t* at = p + size_t(g) * size;
    if constexpr (E8M0) {
      if (left >= kLanes) return load_e8m0(at);
    }
    const bool others = size_t(g) + kLanes <= readable;  // more than wanted may be read
    F32x16 s;
    if (left >= wanted && (!two_blocks || others)) {
      s = load_scales<BF16>(at, element);
    } else if (others) {
      s = as_float(bit_and(as_int(load_scales<BF16>(at, element)), load_int(kFirstLanes + 16 - left)));
    } else {
      s = load_elements_n(at, element, left < wanted ? left : wanted);
    }
    return two_blocks ? dup_lanes(s) : s;
  }
};

/// The codes of a stripe that cannot be used as they lie in `out`, with codes of zero past the row's end. (Where other
/// rows follow, codes past the end may be theirs: scales of zero meet them.)
[[gnu::noinline]] inline const uint8_t* stage_stripe(const uint8_t* p, int bits, int inputs, int all, uint8_t* out) {
  if (inputs < all) __builtin_memset(out, 0, size_t(all));
  unpack_codes(p, bits, inputs, out);
  return out;
}

/// What a stripe of block sums adds to the lanes of ROWS rows of x. u is its first block.
template <class Codes, int ROWS>
BB_INLINE void add_scaled(const I32x16 (&sum)[ROWS], F32x16 s, F32x16 b, int u, const QuantRows& x,
                          F32x16 (&acc)[ROWS]) {
  if constexpr (Codes::kFloats) {
    s = mul(s, set1(0.5f));
    b = mul(s, set1(-kE2m1Offset));
  }
  unroll<ROWS>(BB_BODY(r) {
    const size_t at = size_t(r) * x.block_stride + size_t(u);
    acc[r] = fma(mul(to_float(sum[r]), s), load(x.scales + at), acc[r]);
    acc[r] = fma(b, load(x.sums + at), acc[r]);
  });
}

template <class Codes, int ROWS, bool BF16>
BB_INLINE void add_stripe(const I32x16 (&sum)[ROWS], const RowScales<BF16>& scales, const RowScales<BF16>& biases,
                          int u, bool two_blocks, const QuantRows& x, F32x16 (&acc)[ROWS]) {
  const int g = two_blocks ? u / 2 : u;
  const F32x16 s = scales.template stripe<Codes::kFloats>(g, two_blocks);
  add_scaled<Codes, ROWS>(sum, s, Codes::kFloats ? s : biases.template stripe<false>(g, two_blocks), u, x, acc);
}

/// The stripes of a row that are whole, of codes that are used as they lie and scales that are bf16, one for each
/// block: nothing is asked but where the next one lies. The fewer instructions a line takes, the more lines a
/// processor has under way. Returns the first input that is left.
template <class Codes, int BLOCK, int ROWS>
BB_INLINE int whole_stripes(const WeightRows& w, const uint8_t* codes, const uint8_t* scales, const uint8_t* biases,
                            const QuantRows& x, size_t high, F32x16 (&acc)[ROWS]) {
  constexpr int kDepth = kLanes * BLOCK, kScales = kLanes * 2;
  const int8_t* high_stripe = x.values + high;
  int k = 0;
  for (; k + kDepth <= w.in; k += kDepth) {
    if constexpr (kRowAhead > 0) {
      unroll<kDepth / 128>(BB_BODY(i) { prefetch_row(codes + kRowAhead + 64 * i); });
      prefetch_row(scales + kScalesAhead);
      prefetch_row(biases + kScalesAhead);
    }
    I32x16 sum[ROWS];
    block_sums<Codes, BLOCK, ROWS>(codes, {x.values + k, high_stripe, x.stride}, kDepth, sum);
    add_scaled<Codes, ROWS>(sum, load_bf16(scales), load_bf16(biases), k / BLOCK, x, acc);
    codes += kDepth / 2;
    scales += kScales;
    biases += kScales;
    high_stripe += kHighStripe<BLOCK>;
  }
  return k;
}

/// One row of w times ROWS rows of x, by lanes; the first high bytes are `high` bytes after the first low ones.
template <class Codes, int BLOCK, int ROWS, bool BF16>
BB_INLINE void row_lanes(const WeightRows& w, int n, int last, const RowScales<BF16>& scales,
                         const RowScales<BF16>& biases, const QuantRows& x, size_t high, F32x16 (&acc)[ROWS]) {
  constexpr int kDepth = kLanes * BLOCK;
  alignas(64) uint8_t staged[kDepth];
  const int bits = Codes::kNibbles ? 4 : w.bits;
  const size_t bytes = size_t(kDepth) * size_t(bits) / 8;
  const bool staging = !Codes::kNibbles && !used_as_they_lie(bits);
  const bool two_blocks = !BF16 && w.group > BLOCK;
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes;
  unroll<ROWS>(BB_BODY(r) { acc[r] = zero(); });
  int k = 0;
  if constexpr (BF16) k = whole_stripes<Codes, BLOCK, ROWS>(w, p, scales.p, biases.p, x, high, acc);
  const size_t stripes = size_t(k / kDepth);
  p += stripes * bytes;
  const int8_t* high_stripe = x.values + high + stripes * kHighStripe<BLOCK>;
  for (; k < w.in; k += kDepth, p += bytes, high_stripe += kHighStripe<BLOCK>) {
    const RowBytes row_bytes = {x.values + k, high_stripe, x.stride};
    const int inputs = w.in - k < kDepth ? w.in - k : kDepth;
    const bool inside = size_t(last - n) * w.row_bytes >= size_t(k) * size_t(bits) / 8 + bytes;
    if (kRowAhead > 0 && inside) {
      if constexpr (Codes::kNibbles) {
        constexpr int kHalf = kDepth / 256;  // lines
        unroll<kHalf>(BB_BODY(i) { prefetch_row(p + kRowAhead + 64 * i); });
        if (inputs > kDepth / 2) unroll<kHalf>(BB_BODY(i) { prefetch_row(p + kRowAhead + 64 * (kHalf + i)); });
      } else {
        for (size_t i = 0; i < bytes; i += 128) {
          prefetch_row(p + kRowAhead + i);
          prefetch_row(p + kRowAhead + i + 64);
        }
      }
    }
    const uint8_t* codes = staging || !inside ? stage_stripe(p, bits, inputs, kDepth, staged) : p;
    I32x16 sum[ROWS];
    block_sums<Codes, BLOCK, ROWS>(codes, row_bytes, inputs, sum);
    add_stripe<Codes, ROWS>(sum, scales, biases, k / BLOCK, two_blocks, x, acc);
  }
}

/// kRowStreams weight rows, from n on and `apart` rows from each other, in turns: a processor that follows one stream
/// waits for it, and has room for more. Rows are whole stripes of codes that are used as they lie.
template <class Codes, int BLOCK, bool BF16>
BB_INLINE void stream_lanes(const WeightRows& w, int n, int apart, int last, const QuantRows& x, size_t high,
                            F32x16 (&acc)[kRowStreams][1]) {
  constexpr int kDepth = kLanes * BLOCK, kBytes = kDepth * (Codes::kNibbles ? 4 : 8) / 8;
  const bool two_blocks = !BF16 && w.group > BLOCK;
  const int groups = w.in / w.group;
  const size_t step = size_t(apart) * w.row_bytes;
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes;
  unroll<kRowStreams>(BB_BODY(i) { acc[i][0] = zero(); });
  const int8_t* high_stripe = x.values + high;
  for (int k = 0; k < w.in; k += kDepth, p += kBytes, high_stripe += kHighStripe<BLOCK>) {
    const RowBytes row_bytes = {x.values + k, high_stripe, x.stride};
    unroll<kRowStreams>(BB_BODY(i) {
      const uint8_t* const codes = p + size_t(i) * step;
      const RowScales<BF16> scales(w.scales, w.element, groups, n + i * apart, last);
      const RowScales<BF16> biases =
          Codes::kFloats ? scales : RowScales<BF16>(w.biases, w.bias_element, groups, n + i * apart, last);
      if constexpr (kStreamAhead > 0) {
        unroll<kBytes / 64>(BB_BODY(j) { prefetch_row(codes + kStreamAhead + 64 * j); });
      }
      I32x16 sum[1];
      block_sums<Codes, BLOCK, 1>(codes, row_bytes, kDepth, sum);
      add_stripe<Codes, 1>(sum, scales, biases, k / BLOCK, two_blocks, x, acc[i]);
    });
  }
}

/// Sums of sixteen rows' lanes, in order.
BB_INLINE F32x16 sum_lanes(const float (&lanes)[16][kLanes]) {
  I32x16 t[16];
  for (int i = 0; i < 16; ++i) t[i] = load_int(lanes[i]);
  transpose(t);
  F32x16 sum = zero();
  for (int i = 0; i < kLanes; ++i) sum = add(sum, as_float(t[i]));
  return sum;
}

/// `count` weight rows from n on, at most 16, times ROWS rows of x.
template <class Codes, int BLOCK, int ROWS, bool BF16>
inline void direct_rows(const WeightRows& w, int n, int count, int last, const QuantRows& x, size_t high, float* y,
                        size_t y_stride) {
  alignas(64) float lanes[ROWS][16][kLanes];
  if (count < 16) __builtin_memset(lanes, 0, sizeof lanes);
  const int groups = w.in / w.group;
  RowScales<BF16> scales(w.scales, w.element, groups, n, last);
  // Codes that are floats have none: nothing is read, and no row of nothing is pointed at.
  RowScales<BF16> biases = Codes::kFloats ? scales : RowScales<BF16>(w.biases, w.bias_element, groups, n, last);
  for (int i = 0; i < count; ++i, scales.next_row(), biases.next_row()) {
    F32x16 acc[ROWS];
    row_lanes<Codes, BLOCK, ROWS, BF16>(w, n + i, last, scales, biases, x, high, acc);
    unroll<ROWS>(BB_BODY(r) { store(lanes[r][i], acc[r]); });
  }
  for (int r = 0; r < ROWS; ++r) {
    const F32x16 sum = sum_lanes(lanes[r]);
    float* out = y + size_t(r) * y_stride + size_t(n);
    if (count == 16) {
      store(out, sum);
    } else {
      store_n(out, sum, count);
    }
  }
}

/// Weight rows from `first` on times one row of x, as kRowStreams ranges that follow each other. Returns the first row
/// that is left.
template <class Codes, int BLOCK, bool BF16>
inline int stream_rows(const WeightRows& w, int first, int last, const QuantRows& x, size_t high, float* y) {
  constexpr int kRows = 16 / kRowStreams;  // of each stream in sixteen
  const bool whole = w.in % (kLanes * BLOCK) == 0 && (Codes::kNibbles || w.bits == 8);
  const int apart = (last - first) / 16 * kRows;
  if (!whole) return first;
  for (int n = first; n < first + apart; n += kRows) {
    alignas(64) float lanes[16][kLanes], sums[16];
    for (int i = 0; i < kRows; ++i) {
      F32x16 acc[kRowStreams][1];
      stream_lanes<Codes, BLOCK, BF16>(w, n + i, apart, last, x, high, acc);
      unroll<kRowStreams>(BB_BODY(s) { store(lanes[s * kRows + i], acc[s][0]); });
    }
    store(sums, sum_lanes(lanes));
    for (int s = 0; s < kRowStreams; ++s) __builtin_memcpy(y + n + s * apart, sums + s * kRows, kRows * sizeof(float));
  }
  return first + kRowStreams * apart;
}

/// Weight rows [first, last) times a few rows of x, two at a time, for which sixteen weight rows stay in the cache.
template <class Codes, int BLOCK, bool BF16>
inline void int8_direct_scales(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                               size_t y_stride) {
  const size_t high = size_t(rows) * x.stride;
  if constexpr (kRowStreams > 1) {
    if (rows == 1) first = stream_rows<Codes, BLOCK, BF16>(w, first, last, x, high, y);
  }
  for (int n = first; n < last; n += 16) {
    const int count = last - n < 16 ? last - n : 16;
    int r = 0;
    for (; r + 2 <= rows; r += 2)
      direct_rows<Codes, BLOCK, 2, BF16>(w, n, count, last, x.from(r), high, y + size_t(r) * y_stride, y_stride);
    if (r < rows)
      direct_rows<Codes, BLOCK, 1, BF16>(w, n, count, last, x.from(r), high, y + size_t(r) * y_stride, y_stride);
  }
}

/// Codes of four bits with scales and biases of bf16, one for each block, are what nearly all files have: they have
/// loops of their own.
template <class Codes, int BLOCK>
inline void int8_direct_rows(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                             size_t y_stride) {
  if constexpr (Codes::kNibbles && !Codes::kFloats) {
    if (w.group == BLOCK && w.element == Element::bf16 && w.bias_element == Element::bf16)
      return int8_direct_scales<Codes, BLOCK, true>(w, first, last, x, rows, y, y_stride);
  }
  int8_direct_scales<Codes, BLOCK, false>(w, first, last, x, rows, y, y_stride);
}

template <class Codes>
inline void int8_direct_codes(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                              size_t y_stride) {
  if (w.group == 32) return int8_direct_rows<Codes, 32>(w, first, last, x, rows, y, y_stride);
  return int8_direct_rows<Codes, 64>(w, first, last, x, rows, y, y_stride);
}

inline void int8_direct(const WeightRows& w, int first, int last, const QuantRows& x, int rows, float* y,
                        size_t y_stride) {
  if (w.floats) return int8_direct_rows<E2m1Codes, 32>(w, first, last, x, rows, y, y_stride);
  if (w.bits == 4) return int8_direct_codes<NibbleCodes>(w, first, last, x, rows, y, y_stride);
  if constexpr (kNarrowBits < 8) {
    if (w.bits > kNarrowBits) return int8_direct_codes<ByteCodes<false>>(w, first, last, x, rows, y, y_stride);
  }
  return int8_direct_codes<ByteCodes<true>>(w, first, last, x, rows, y, y_stride);
}
