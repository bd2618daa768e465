// Fast mode for dense bf16 weights with the instruction that multiplies pairs of bf16. An element's sum has one order,
// whatever is computed beside it: sixteen lanes of pairs along the inputs, then the lanes.
#pragma once

inline __m512i load_bf16x32(const void* p, int n) {
  if (n >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16((__mmask32(1) << n) - 1, p);
}

/// ROWS rows of x times COLS weight rows. Plain unrolled loops, so that the sums stay in registers.
template <int ROWS, int COLS>
[[gnu::noinline]] void bf16_dot_tile(const uint8_t* w, size_t w_stride, const uint16_t* x, size_t x_stride, int in,
                                     float* y, size_t y_stride) {
  __m512 sum[ROWS][COLS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < COLS; ++c) sum[r][c] = _mm512_setzero_ps();
  }
  const auto step = [&](int k, auto load) __attribute__((always_inline)) {
    __m512i a[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) a[r] = load(x + size_t(r) * x_stride + k);
#pragma GCC unroll 8
    for (int c = 0; c < COLS; ++c) {
      const __m512i b = load(w + size_t(c) * w_stride + 2 * size_t(k));
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], __m512bh(b), __m512bh(a[r]));
    }
  };
  int k = 0;
  for (; k + 32 <= in; k += 32) step(k, [](const void* p) { return _mm512_loadu_si512(p); });
  if (k < in) step(k, [n = in - k](const void* p) { return load_bf16x32(p, n); });
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < COLS; ++c) y[size_t(r) * y_stride + size_t(c)] = reduce_add(F32x16{sum[r][c]});
  }
}

inline void bf16_matvec(const WeightRows& w, int first, int last, const uint16_t* x, size_t x_stride, int rows,
                        float* y, size_t y_stride) {
  constexpr int kRowBlock = 64;  // of x, which stay in the second-level cache while weights pass by
  for (int r0 = 0; r0 < rows; r0 += kRowBlock) {
    const int end = rows - r0 < kRowBlock ? rows : r0 + kRowBlock;
    int n = first;
    const auto columns = [&](auto cols) {
      for (; n + cols <= last; n += cols) {
        const uint8_t* at = w.codes + size_t(n) * w.row_bytes;
        int r = r0;
        const auto tiles = [&](auto count) {
          for (; r + count <= end; r += count)
            bf16_dot_tile<count, cols>(at, w.row_bytes, x + size_t(r) * x_stride, x_stride, w.in,
                                       y + size_t(r) * y_stride + size_t(n), y_stride);
        };
        tiles(Index<4>());
        tiles(Index<1>());
      }
    };
    columns(Index<6>());
    columns(Index<1>());
  }
}
