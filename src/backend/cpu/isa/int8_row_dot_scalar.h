// Sums of products along a weight row, one at a time. Included after int8.inl.h.
#pragma once

inline constexpr size_t kRowAhead = 0;  // no prefetching
BB_INLINE void prefetch_row(const void* p) { prefetch(p); }

/// A stripe of one weight row at p times ROWS rows of x, both bytes: sum[r] lane i is block i, zero past `inputs`.
template <class Codes, int BLOCK, int ROWS>
inline void block_sums(const uint8_t* p, const RowBytes& x, int inputs, I32x16 (&sum)[ROWS]) {
  for (int u = 0; u < kLanes; ++u) {
    if (u * BLOCK >= inputs) {
      for (int r = 0; r < ROWS; ++r) sum[r].v[u] = 0;
      continue;
    }
    uint8_t codes[BLOCK];
    if constexpr (Codes::kNibbles) {
      for (int j = 0; j < BLOCK; j += 16) store_codes<4>(codes + j, p + (u * BLOCK + j) / 2);
      for (int j = 0; Codes::kFloats && j < BLOCK; ++j) codes[j] = kE2m1Bytes[codes[j]];
    } else {
      __builtin_memcpy(codes, p + u * BLOCK, BLOCK);
    }
    for (int r = 0; r < ROWS; ++r) {
      int32_t low = 0, high = 0;
      for (int j = 0; j < BLOCK; ++j) {
        const int k = u * BLOCK + j, at = !Codes::kNibbles ? k
                                                           : k / kNibbleChunk * kNibbleChunk +
                                                                 k % 2 * (kNibbleChunk / 2) + k % kNibbleChunk / 2;
        low += codes[j] * x.low[size_t(r) * x.stride + size_t(at)];
        high += codes[j] * x.high[size_t(r) * x.stride + size_t(at)];
      }
      sum[r].v[u] = low + 128 * high;
    }
  }
}
