// Sums of products along weight rows, one at a time. Included after int8.inl.h.
#pragma once

/// total[u][r] lane i = the sum over unit u of codes of row i, at p + i·stride, times x row r.
template <int BITS, int UNIT, int ROWS>
inline void row_sums(const uint8_t* p, size_t stride, const int8_t* x, size_t x_stride,
                     I16 (&total)[kQuantGroup / UNIT][ROWS]) {
  for (int i = 0; i < 16; ++i, p += stride) {
    uint8_t codes[kQuantGroup];
    for (int j = 0; j < kQuantGroup; j += 16) store_codes<BITS>(codes + j, p + size_t(j) * BITS / 8);
    for (int u = 0; u < kQuantGroup / UNIT; ++u) {
      for (int r = 0; r < ROWS; ++r) {
        const int8_t* v = x + size_t(r) * x_stride + u * UNIT;
        int sum = 0;
        for (int j = 0; j < UNIT; ++j) {
          const int at = BITS != 4 ? j : j % 2 * (UNIT / 2) + j / 2;
          sum += codes[u * UNIT + j] * v[at];
        }
        total[u][r].v[i] = sum;
      }
    }
  }
}
