// Sums of products along a weight row, one at a time. Included after int8.inl.h.
#pragma once

/// Sums of kRowStep inputs of one weight row at p: out[r·out_stride + u] is that of unit u times x row r.
template <int BITS, int UNIT, int ROWS>
inline void row_sums(const uint8_t* p, const int8_t* x, size_t x_stride, int32_t* out, size_t out_stride) {
  for (int u = 0; u < kRowStep / UNIT; ++u) {
    uint8_t codes[UNIT];
    for (int j = 0; j < UNIT; j += 16) store_codes<BITS>(codes + j, p + size_t(u * UNIT + j) * BITS / 8);
    for (int r = 0; r < ROWS; ++r) {
      const int8_t* v = x + size_t(r) * x_stride + u * UNIT;
      int32_t sum = 0;
      for (int j = 0; j < UNIT; ++j) sum += codes[j] * v[BITS != 4 ? j : j % 2 * (UNIT / 2) + j / 2];
      out[size_t(r) * out_stride + size_t(u)] = sum;
    }
  }
}

/// total[u] lane i = sums[i·stride + u] for eight units and sixteen rows.
inline void load_sums(const int32_t* sums, size_t stride, I16 (&total)[8]) {
  for (int u = 0; u < 8; ++u) {
    for (int i = 0; i < 16; ++i) total[u].v[i] = sums[size_t(i) * stride + size_t(u)];
  }
}
