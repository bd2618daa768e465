// Fast mode: rounded activations, integer sums inside a block of 32 or 64 inputs, f32 across blocks. With x ≈ s·v, a
// block of a weight row adds Σ (q·scale + bias)·x ≈ s·(scale·Σ q·v) + bias·(s·Σ v). Σ q·v sums low bytes and, for the
// few outliers, 128 times high ones. Blocks are added in order, so every path gives the same bits. Here: what reads
// sixteen weight rows at once. Included inside an instruction set's own namespace after its int and dot headers.
#pragma once

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

/// Inputs of a row that one transposition takes: a cache line where codes can be used as they lie.
inline int chunk_inputs(int bits) { return bits == 4 ? NibbleCodes::kChunkInputs : ByteCodes<false>::kChunkInputs; }

/// t[i] = the i-th four bytes of the chunk of codes from input k on, of all sixteen rows; `left` inputs are left.
BB_INLINE void load_chunk(const TileRows& rows, int bits, int k, int left, I32x16 (&t)[16]) {
  const size_t offset = size_t(k) * size_t(bits) / 8;
  if (!used_as_they_lie(bits)) {
    alignas(64) uint8_t q[16][64];
    const int count = left < 64 ? left : 64;
    if (count < 64) __builtin_memset(q, 0, sizeof q);
    for (int i = 0; i < 16; ++i) unpack_codes(rows.at(i) + offset, bits, count, q[i]);
    unroll<16>(BB_BODY(i) { t[i] = load_int(q[i]); });
  } else if (left < chunk_inputs(bits)) {
    for (int i = 0; i < 16; ++i) t[i] = load_int_n(rows.at(i) + offset, left * bits / 8);
  } else if (rows.full) {
    each_row(
        rows, offset, [&](auto i, const uint8_t* p) __attribute__((always_inline)) { t[i] = load_int(p); });
  } else {
    for (int i = 0; i < 16; ++i) t[i] = load_int(rows.at(i) + offset);
  }
  transpose(t);
}

/// out[STRIDE·g + lane] = the scale (or bias) of group g0 + g of row `lane`, g < count <= 16.
template <int STRIDE>
inline void load_scale_lanes(const uint8_t* p, Element element, const WeightRows& w, int n, int last, int g0, int count,
                             float* out) {
  const size_t size = element_size(element), groups = size_t(w.in / w.group), end = size_t(last) * groups;
  I32x16 t[16];
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

/// A stripe's low and high bytes, of rows of x that are `stride` apart.
struct RowBytes {
  const int8_t *low, *high;
  size_t stride;
};
