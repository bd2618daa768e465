// Fast mode for dense bf16 weights with the instruction that multiplies pairs of bf16.
#pragma once

inline __m512i load_bf16x32(const void* p, int n) {
  if (n >= 32) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16((__mmask32(1) << n) - 1, p);
}

inline void bf16_matvec(const WeightRows& w, int first, int last, const uint16_t* x, size_t x_stride, int rows,
                        float* y, size_t y_stride) {
  for (int n = first; n < last; ++n) {
    const uint8_t* row = w.codes + size_t(n) * w.row_bytes;
    for (int r = 0; r < rows; ++r) {
      const uint16_t* values = x + size_t(r) * x_stride;
      __m512 acc = _mm512_setzero_ps();
      for (int k = 0; k < w.in; k += 32) {
        acc = _mm512_dpbf16_ps(acc, __m512bh(load_bf16x32(row + 2 * k, w.in - k)),
                               __m512bh(load_bf16x32(values + k, w.in - k)));
      }
      y[size_t(r) * y_stride + size_t(n)] = reduce_add(F16{acc});
    }
  }
}
