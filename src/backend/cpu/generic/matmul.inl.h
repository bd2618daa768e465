// Exact matrix products: weights are decoded to f32 exactly as the format says, and every sum over k has the same
// order, whatever the number of rows. Included inside an instruction set's own namespace after its simd header.
#pragma once

/// Sixteen elements of any float type.
inline F32x16 load_elements(const uint8_t* p, Element element) {
  if (element == Element::bf16) return load_bf16(p);
  if (element == Element::f16) return load_f16(p);
  if (element == Element::e8m0) return load_e8m0(p);
  if (element == Element::e4m3) return load_e4m3(p);
  float t[16];
  __builtin_memcpy(t, p, sizeof t);
  return load(t);
}

/// Converts `count` scales or biases, beginning at element `first`, to f32; never reads past the last.
inline void load_scales(const uint8_t* p, Element element, size_t first, int count, float* out) {
  const size_t size = element_size(element);
  int i = 0;
  if (element == Element::bf16) {
    for (; i + 16 <= count; i += 16) store(out + i, load_bf16(p + (first + size_t(i)) * size));
  } else {
    for (; i + 16 <= count; i += 16) store(out + i, load_elements(p + (first + size_t(i)) * size, element));
  }
  for (; i < count; ++i) out[i] = load_element(p, element, first + size_t(i));
}

struct ScaleBlock {
  float scale[kDepthBlock / 16], bias[kDepthBlock / 16];
};

/// The scales and biases of row n for elements [k0, k1). A function of its own: it is called once in kDepthBlock
/// inputs, and its cases would be repeated in every product.
[[gnu::noinline]] inline void load_scale_block(const WeightRows& w, int n, int k0, int k1, ScaleBlock& s) {
  const size_t first = size_t(n) * size_t(w.in / w.group) + size_t(k0 / w.group);
  const int count = (k1 - k0) / w.group;
  load_scales(w.scales, w.element, first, count, s.scale);
  if (!w.floats) return load_scales(w.biases, w.bias_element, first, count, s.bias);
  for (int g = 0; g < count; ++g) {
    s.scale[g] *= w.factor;
    s.bias[g] = 0;
  }
}

inline int depth_block_end(int in, int k0) { return in - k0 < kDepthBlock ? in : k0 + kDepthBlock; }

/// COLS weight rows at once: their sums are independent chains, which hides the latency of each. Where fewer are left,
/// the last is repeated, and its copies' results are dropped.
template <int CODE, int ROWS, int COLS>
inline void affine_matvec_tile(const WeightRows& w, int n, int last, const FloatRows& x, float* y, size_t y_stride) {
  ScaleBlock s[COLS];
  float sum[ROWS][COLS] = {};
  const uint8_t* codes[COLS];
  for (int c = 0; c < COLS; ++c) codes[c] = w.codes + size_t(n + c < last ? n + c : last - 1) * w.row_bytes;
  for (int k0 = 0; k0 < w.in; k0 += kDepthBlock) {
    const int k1 = depth_block_end(w.in, k0);
    F32x16 acc[ROWS][COLS];
    for (int c = 0; c < COLS; ++c) {
      load_scale_block(w, n + c < last ? n + c : last - 1, k0, k1, s[c]);
      for (int r = 0; r < ROWS; ++r) acc[r][c] = zero();
    }
    for (int k = k0, g = 0; k < k1; k += w.group, ++g) {
#pragma GCC unroll 4  // keeps the accumulators in registers
      for (int c = 0; c < COLS; ++c) {
        const Decoder<CODE> decode(s[c].scale[g], s[c].bias[g]);
        const uint8_t* at = codes[c];
        if (CODE == kE2m1 && w.group == 16) {
          const F32x16 a = decode(at + size_t(k) * bits_of(CODE) / 8);
          for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(a, load(x.data + size_t(r) * x.stride + k), acc[r][c]);
          continue;
        }
        for (int i = k; i < k + w.group; i += 32) {
          const F32x16 a = decode(at + size_t(i) * bits_of(CODE) / 8),
                       b = decode(at + size_t(i + 16) * bits_of(CODE) / 8);
          for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(a, load(x.data + size_t(r) * x.stride + i), acc[r][c]);
          for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(b, load(x.data + size_t(r) * x.stride + i + 16), acc[r][c]);
        }
      }
    }
    for (int r = 0; r < ROWS; ++r) {
      for (int c = 0; c < COLS; ++c) sum[r][c] += reduce_add(acc[r][c]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; c < COLS && n + c < last; ++c) y[size_t(r) * y_stride + size_t(n + c)] = sum[r][c];
  }
}

template <int CODE, int ROWS>
inline void affine_matvec_rows(const WeightRows& w, int first, int last, const FloatRows& x, float* y,
                               size_t y_stride) {
  constexpr int kCols = kMatvecTile == 1 ? 1 : ROWS == 1 ? 4 : 2;
  for (int n = first; n < last; n += kCols) affine_matvec_tile<CODE, ROWS, kCols>(w, n, last, x, y, y_stride);
}

/// The last, incomplete sixteen elements of a dense row.
[[gnu::noinline]] inline F32x16 load_elements_n(const uint8_t* p, Element element, int n) {
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = load_element(p, element, size_t(i));
  return load(t);
}

template <int ROWS>
inline void dense_matvec_rows(const WeightRows& w, int first, int last, const FloatRows& x, float* y, size_t y_stride) {
  const size_t size = w.element == Element::f32 ? 4 : 2;
  for (int n = first; n < last; ++n) {
    const uint8_t* row = w.codes + size_t(n) * w.row_bytes;
    float sum[ROWS] = {};
    for (int k0 = 0; k0 < w.in; k0 += kDepthBlock) {
      const int k1 = depth_block_end(w.in, k0);
      F32x16 acc[ROWS];
      for (int r = 0; r < ROWS; ++r) acc[r] = zero();
      int k = k0;
      for (; k + 16 <= k1; k += 16) {
        const F32x16 a = load_elements(row + size_t(k) * size, w.element);
        for (int r = 0; r < ROWS; ++r) acc[r] = fma(a, load(x.data + size_t(r) * x.stride + k), acc[r]);
      }
      if (k < k1) {
        const F32x16 a = load_elements_n(row + size_t(k) * size, w.element, k1 - k);
        for (int r = 0; r < ROWS; ++r) acc[r] = fma(a, load_n(x.data + size_t(r) * x.stride + k, k1 - k), acc[r]);
      }
      for (int r = 0; r < ROWS; ++r) sum[r] += reduce_add(acc[r]);
    }
    for (int r = 0; r < ROWS; ++r) y[size_t(r) * y_stride + size_t(n)] = sum[r];
  }
}

template <int CODE>
inline void matvec_code(const WeightRows& w, int first, int last, const FloatRows& x, int rows, float* y,
                        size_t y_stride) {
  if constexpr (CODE == 0) {
    switch (rows) {
      case 1: return dense_matvec_rows<1>(w, first, last, x, y, y_stride);
      case 2: return dense_matvec_rows<2>(w, first, last, x, y, y_stride);
      case 3: return dense_matvec_rows<3>(w, first, last, x, y, y_stride);
      default: return dense_matvec_rows<4>(w, first, last, x, y, y_stride);
    }
  } else {
    if constexpr (kMatvecTile == 1) {
      for (int r = 0; r < rows; ++r)
        affine_matvec_rows<CODE, 1>(w, first, last, {x.data + size_t(r) * x.stride, x.stride}, y + size_t(r) * y_stride,
                                    y_stride);
    } else {
      switch (rows) {
        case 1: return affine_matvec_rows<CODE, 1>(w, first, last, x, y, y_stride);
        case 2: return affine_matvec_rows<CODE, 2>(w, first, last, x, y, y_stride);
        case 3: return affine_matvec_rows<CODE, 3>(w, first, last, x, y, y_stride);
        default: return affine_matvec_rows<CODE, 4>(w, first, last, x, y, y_stride);
      }
    }
  }
}

inline void matvec(const WeightRows& w, int first, int last, const FloatRows& x, int rows, float* y, size_t y_stride) {
  switch (code_of(w)) {
    case kE2m1: return matvec_code<kE2m1>(w, first, last, x, rows, y, y_stride);
    case kE4m3: return matvec_code<kE4m3>(w, first, last, x, rows, y, y_stride);
    case 2: return matvec_code<2>(w, first, last, x, rows, y, y_stride);
    case 3: return matvec_code<3>(w, first, last, x, rows, y, y_stride);
    case 4: return matvec_code<4>(w, first, last, x, rows, y, y_stride);
    case 5: return matvec_code<5>(w, first, last, x, rows, y, y_stride);
    case 6: return matvec_code<6>(w, first, last, x, rows, y, y_stride);
    case 8: return matvec_code<8>(w, first, last, x, rows, y, y_stride);
    default: return matvec_code<0>(w, first, last, x, rows, y, y_stride);
  }
}

template <int CODE>
inline void decode_affine(const WeightRows& w, int n, int k0, int k1, float* out) {
  const uint8_t* codes = w.codes + size_t(n) * w.row_bytes;
  ScaleBlock s;
  for (; k0 < k1; k0 += kDepthBlock, out += kDepthBlock) {
    const int end = depth_block_end(k1, k0);
    load_scale_block(w, n, k0, end, s);
    for (int k = k0, g = 0; k < end; k += w.group, ++g) {
      const Decoder<CODE> decode(s.scale[g], s.bias[g]);
      for (int i = k; i < k + w.group; i += 16) store(out + (i - k0), decode(codes + size_t(i) * bits_of(CODE) / 8));
    }
  }
}

inline void decode_dense(const WeightRows& w, int n, int k0, int k1, float* out) {
  const size_t size = w.element == Element::f32 ? 4 : 2;
  const uint8_t* row = w.codes + size_t(n) * w.row_bytes;
  int k = k0;
  for (; k + 16 <= k1; k += 16) store(out + (k - k0), load_elements(row + size_t(k) * size, w.element));
  for (; k < k1; ++k) out[k - k0] = load_element(row, w.element, size_t(k));
}

inline void decode_rows(const WeightRows& w, int first, int last, int k0, int k1, float* out, size_t out_stride) {
  for (int n = first; n < last; ++n, out += out_stride) {
    switch (code_of(w)) {
      case kE2m1: decode_affine<kE2m1>(w, n, k0, k1, out); break;
      case kE4m3: decode_affine<kE4m3>(w, n, k0, k1, out); break;
      case 2: decode_affine<2>(w, n, k0, k1, out); break;
      case 3: decode_affine<3>(w, n, k0, k1, out); break;
      case 4: decode_affine<4>(w, n, k0, k1, out); break;
      case 5: decode_affine<5>(w, n, k0, k1, out); break;
      case 6: decode_affine<6>(w, n, k0, k1, out); break;
      case 8: decode_affine<8>(w, n, k0, k1, out); break;
      default: decode_dense(w, n, k0, k1, out);
    }
  }
}

template <int ROWS, int COLS>
inline void dot_tile(const float* x, size_t x_stride, const float* w, size_t w_stride, int depth, float* y,
                     size_t y_stride) {
  F32x16 acc[ROWS][COLS];
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; c < COLS; ++c) acc[r][c] = zero();
  }
  int k = 0;
  for (; k + 16 <= depth; k += 16) {
    F32x16 a[ROWS];
    for (int r = 0; r < ROWS; ++r) a[r] = load(x + size_t(r) * x_stride + k);
    for (int c = 0; c < COLS; ++c) {
      const F32x16 b = load(w + size_t(c) * w_stride + k);
      for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(b, a[r], acc[r][c]);
    }
  }
  if (k < depth) {
    for (int c = 0; c < COLS; ++c) {
      const F32x16 b = load_n(w + size_t(c) * w_stride + k, depth - k);
      for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(b, load_n(x + size_t(r) * x_stride + k, depth - k), acc[r][c]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; c < COLS; ++c) y[size_t(r) * y_stride + c] += reduce_add(acc[r][c]);
  }
}

template <int ROWS>
inline void dot_rows(const float* x, size_t x_stride, const FloatRows& w, int cols, int depth, float* y,
                     size_t y_stride) {
  int c = 0;
  for (; c + kTileN <= cols; c += kTileN)
    dot_tile<ROWS, kTileN>(x, x_stride, w.data + size_t(c) * w.stride, w.stride, depth, y + c, y_stride);
  for (; c < cols; ++c) dot_tile<ROWS, 1>(x, x_stride, w.data + size_t(c) * w.stride, w.stride, depth, y + c, y_stride);
}

inline void dot_block(const FloatRows& x, int rows, const FloatRows& w, int cols, int depth, float* y,
                      size_t y_stride) {
  int r = 0;
  for (; r + kTileM <= rows; r += kTileM)
    dot_rows<kTileM>(x.data + size_t(r) * x.stride, x.stride, w, cols, depth, y + size_t(r) * y_stride, y_stride);
  for (; r < rows; ++r)
    dot_rows<1>(x.data + size_t(r) * x.stride, x.stride, w, cols, depth, y + size_t(r) * y_stride, y_stride);
}
