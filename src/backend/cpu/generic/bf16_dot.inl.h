// Fast mode for dense bf16 weights where no instruction multiplies bf16: x is rounded to bf16 all the same, so that
// every instruction set computes the same function.
#pragma once

inline void bf16_matvec(const WeightRows& w, int first, int last, const uint16_t* x, size_t x_stride, int rows,
                        float* y, size_t y_stride) {
  for (int n = first; n < last; ++n) {
    const uint8_t* row = w.codes + size_t(n) * w.row_bytes;
    for (int r = 0; r < rows; ++r) {
      const auto* values = reinterpret_cast<const uint8_t*>(x + size_t(r) * x_stride);
      F32x16 acc = zero();
      int k = 0;
      for (; k + 16 <= w.in; k += 16) acc = fma(load_bf16(row + 2 * k), load_bf16(values + 2 * k), acc);
      if (k < w.in)
        acc = fma(load_elements_n(row + 2 * k, Element::bf16, w.in - k),
                  load_elements_n(values + 2 * k, Element::bf16, w.in - k), acc);
      y[size_t(r) * y_stride + size_t(n)] = reduce_add(acc);
    }
  }
}
