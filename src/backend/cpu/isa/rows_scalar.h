// Sums of products along a weight row, one at a time. Included after int8.inl.h.
#pragma once

inline constexpr size_t kRowAhead = 0;  // no prefetching

/// A round of one weight row at p times ROWS rows of x, both digits: sum[r] lane i is unit i.
template <class Codes, int UNIT, int ROWS>
inline void unit_sums(const uint8_t* p, const RowDigits& x, I16 (&sum)[ROWS]) {
  for (int u = 0; u < kLanes; ++u) {
    uint8_t codes[UNIT];
    if constexpr (Codes::kNibbles) {
      for (int j = 0; j < UNIT; j += 16) store_codes<4>(codes + j, p + (u * UNIT + j) / 2);
    } else {
      __builtin_memcpy(codes, p + u * UNIT, UNIT);
    }
    for (int r = 0; r < ROWS; ++r) {
      int32_t low = 0, high = 0;
      for (int j = 0; j < UNIT; ++j) {
        const int k = u * UNIT + j, at = !Codes::kNibbles ? k : k / kLine * kLine + k % 2 * (kLine / 2) + k % kLine / 2;
        low += codes[j] * x.low[size_t(r) * x.stride + size_t(at)];
        high += codes[j] * x.high[size_t(r) * x.stride + size_t(at)];
      }
      sum[r].v[u] = low + 128 * high;
    }
  }
}
