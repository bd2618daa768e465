// Low-rank terms: u = A x, then y += scale·(B u + b). Every sum has one order whatever the number of rows: over the
// inputs in blocks of kDepthBlock and 16 lanes, as products with weights have it; over the rank one after the other.
// Included inside an instruction set's own namespace.
#pragma once

/// Sums of sixteen held at once; a tile is rows times ranks (shrink) or rows times blocks of 16 outputs (expand).
inline constexpr int kLoraSums = kGemmSums;
inline constexpr int kLoraCols = kLoraSums >= 24 ? 4 : kLoraSums > 1 ? 2 : 1;
inline constexpr int kLoraRows = kLoraSums / kLoraCols;

template <Element E>
inline F32x16 lora_load(const uint8_t* p) {
  if constexpr (E == Element::bf16) return load_bf16(p);
  float t[16];
  __builtin_memcpy(t, p, sizeof t);
  return load(t);
}

/// How far ahead memory is asked for: tiles of outputs of many rows; bytes of B, and of each row of A, that few rows of
/// x read once.
inline constexpr int kAheadTiles = 2, kAheadBytes = 8192, kAheadInRow = 1024;

template <Element E>
inline constexpr size_t kLoraSize = E == Element::bf16 ? 2 : 4;

template <Element E, int ROWS, int RANKS>
inline void shrink_tile(const LoraShrink& s, int rank, int row, int k0, int k1) {
  const uint8_t* a = s.a + size_t(rank) * s.a_stride * kLoraSize<E>;
  const float* x = s.x.data + size_t(row) * s.x.stride;
  F32x16 acc[ROWS][RANKS];
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; c < RANKS; ++c) acc[r][c] = zero();
  }
  // A row of A is a stream; where it ends, the same stream of the next tile follows.
  constexpr size_t ahead = kAheadInRow;
  const size_t ahead_of_next = ahead + size_t(RANKS - 1) * s.a_stride * kLoraSize<E>;
  const int wrap = s.depth - kAheadInRow / int(kLoraSize<E>);
  int k = k0;
  for (; k + 16 <= k1; k += 16) {
    F32x16 w[RANKS];
    for (int c = 0; c < RANKS; ++c) {
      const uint8_t* at = a + (size_t(c) * s.a_stride + size_t(k)) * kLoraSize<E>;
      w[c] = lora_load<E>(at);
      if constexpr (ROWS == 1) __builtin_prefetch(at + (k < wrap ? ahead : ahead_of_next));
    }
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 v = load(x + size_t(r) * s.x.stride + k);
      for (int c = 0; c < RANKS; ++c) acc[r][c] = fma(w[c], v, acc[r][c]);
    }
  }
  if (k < k1) {
    for (int c = 0; c < RANKS; ++c) {
      const F32x16 w = load_elements_n(a + (size_t(c) * s.a_stride + size_t(k)) * kLoraSize<E>, E, k1 - k);
      for (int r = 0; r < ROWS; ++r) acc[r][c] = fma(w, load_n(x + size_t(r) * s.x.stride + k, k1 - k), acc[r][c]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    float* u = s.u + size_t(row + r) * s.u_stride + rank;
    for (int c = 0; c < RANKS; ++c) u[c] = (k0 == 0 ? 0.0f : u[c]) + reduce_add(acc[r][c]);
  }
}

/// ROWS rows with every rank: the rows stay in the first-level cache meanwhile.
template <Element E, int ROWS>
inline void shrink_ranks(const LoraShrink& s, int row, int k0, int k1) {
  int i = 0;
  for (; i + kLoraCols <= s.ranks; i += kLoraCols) shrink_tile<E, ROWS, kLoraCols>(s, i, row, k0, k1);
  for (; i < s.ranks; ++i) shrink_tile<E, ROWS, 1>(s, i, row, k0, k1);
}

template <Element E>
inline void shrink_block(const LoraShrink& s, int k0, int k1) {
  int r = 0;
  if constexpr (kLoraRows >= 2) {
    for (; r + kLoraRows <= s.rows; r += kLoraRows) shrink_ranks<E, kLoraRows>(s, r, k0, k1);
  }
  if constexpr (kLoraRows > 2) {
    for (; r + 2 <= s.rows; r += 2) shrink_ranks<E, 2>(s, r, k0, k1);
  }
  for (; r < s.rows; ++r) shrink_ranks<E, 1>(s, r, k0, k1);
}

template <Element E>
inline void shrink_elements(const LoraShrink& s) {
  if (s.rows > kLoraRows || s.ranks <= kLoraCols) {
    for (int k0 = 0; k0 < s.depth; k0 += kDepthBlock) shrink_block<E>(s, k0, depth_block_end(s.depth, k0));
    return;
  }
  // Few rows: A is what is read, a few of its rows from end to end, as streams.
  LoraShrink part = s;
  for (int i = 0; i < s.ranks; i += kLoraCols) {
    part.a = s.a + size_t(i) * s.a_stride * kLoraSize<E>;
    part.u = s.u + i;
    part.ranks = s.ranks - i < kLoraCols ? s.ranks - i : kLoraCols;
    for (int k0 = 0; k0 < s.depth; k0 += kDepthBlock) shrink_block<E>(part, k0, depth_block_end(s.depth, k0));
  }
}

inline void lora_shrink(const LoraShrink& s) {
  return s.element == Element::bf16 ? shrink_elements<Element::bf16>(s) : shrink_elements<Element::f32>(s);
}

/// BLOCKS blocks of sixteen outputs from output n on, of which `last` may fall into the last block.
template <Element E, int ROWS, int BLOCKS>
inline void expand_tile(const LoraExpand& e, int n, int row) {
  const size_t block = size_t(e.rank) * 16 * kLoraSize<E>;
  const uint8_t* b = e.b + size_t(n / 16) * block;
  const float* u = e.u.data + size_t(row) * e.u.stride;
  F32x16 acc[ROWS][BLOCKS];
  if constexpr (ROWS > 2) {
    for (int r = 0; r < ROWS; ++r) {
      const float* y = e.y + size_t(row + r) * e.y_stride + n + kAheadTiles * 16 * BLOCKS;
      for (int c = 0; c < BLOCKS; ++c) __builtin_prefetch(y + 16 * c, 1);
    }
  }
  for (int c = 0; c < BLOCKS; ++c) {
    const F32x16 start = e.bias == nullptr ? zero() : load(e.bias + n + 16 * c);
    for (int r = 0; r < ROWS; ++r) acc[r][c] = start;
  }
  for (int i = 0; i < e.rank; ++i, b += 16 * kLoraSize<E>) {
    F32x16 w[BLOCKS];
    for (int c = 0; c < BLOCKS; ++c) {
      w[c] = lora_load<E>(b + size_t(c) * block);
      if constexpr (ROWS == 1) __builtin_prefetch(b + size_t(c) * block + kAheadBytes);
    }
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 v = set1(u[size_t(r) * e.u.stride + size_t(i)]);
      for (int c = 0; c < BLOCKS; ++c) acc[r][c] = fma(w[c], v, acc[r][c]);
    }
  }
  const F32x16 scale = set1(e.scale);
  for (int r = 0; r < ROWS; ++r) {
    float* y = e.y + size_t(row + r) * e.y_stride + n;
    for (int c = 0; c < BLOCKS; ++c, y += 16) {
      const int count = e.last - n - 16 * c;
      if (count >= 16) {
        store(y, fma(acc[r][c], scale, load(y)));
      } else {
        store_n(y, fma(acc[r][c], scale, load_n(y, count)), count);
      }
    }
  }
}

template <Element E, int ROWS>
inline void expand_row_tile(const LoraExpand& e, int first, int last, int row) {
  constexpr int kBlocks = kLoraSums >= 24 ? 4 : kLoraSums / ROWS >= 4 ? 4 : kLoraSums / ROWS >= 2 ? 2 : 1;
  int n = first;
  for (; n + 16 * kBlocks <= (last + 15) / 16 * 16; n += 16 * kBlocks) expand_tile<E, ROWS, kBlocks>(e, n, row);
  for (; n < last; n += 16) expand_tile<E, ROWS, 1>(e, n, row);
}

template <Element E>
inline void expand_elements(const LoraExpand& e) {
  // Many rows read B again and again: as much of it as stays in the second-level cache.
  const int fit = int((size_t{256} << 10) / (size_t(e.rank) * kLoraSize<E>)) / 64 * 64;
  const int step = e.rows <= kLoraRows ? e.last - e.first : fit < 64 ? 64 : fit;
  for (int n = e.first; n < e.last; n += step) {
    const int last = e.last - n < step ? e.last : n + step;
    int r = 0;
    if constexpr (kLoraRows >= 2) {
      for (; r + kLoraRows <= e.rows; r += kLoraRows) expand_row_tile<E, kLoraRows>(e, n, last, r);
    }
    if constexpr (kLoraRows > 2) {
      for (; r + 2 <= e.rows; r += 2) expand_row_tile<E, 2>(e, n, last, r);
    }
    for (; r < e.rows; ++r) expand_row_tile<E, 1>(e, n, last, r);
  }
}

inline void lora_expand(const LoraExpand& e) {
  return e.element == Element::bf16 ? expand_elements<Element::bf16>(e) : expand_elements<Element::f32>(e);
}
