// What kernels of few rows share: weights as terms of one launch, the rows of x that a block takes, and how x lies in
// shared memory.
#pragma once

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/matmul.h"

namespace bumblebee::cuda {

inline constexpr int kWarps = 8, kThreads = kWarps * kWarp;
inline constexpr int kBlock = 32;  // codes of a lane
inline constexpr int kStride =
    kBlock + 4;  // floats of a block of x in shared memory: no two lanes of a phase share a bank
inline constexpr int kTileCodes = kWarp * kBlock;

struct Terms {
  ProductTerm term[kMaxTerms];
  int first_block[kMaxTerms + 1];  // of the grid
  int count = 0;
};

__device__ inline int term_of(const Terms& terms, int block) {
  int t = 0;
  while (t + 1 < terms.count && block >= terms.first_block[t + 1]) ++t;
  return t;
}

/// The block's words; a block starts at a multiple of 4·BITS bytes.
template <int BITS>
__device__ inline void load_words(const uint8_t* at, uint32_t* words) {
  if constexpr (BITS % 4 == 0) {
#pragma unroll
    for (int i = 0; i < BITS; i += 4) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(at) + i / 4);
      words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
    }
  } else if constexpr (BITS % 2 == 0) {
#pragma unroll
    for (int i = 0; i < BITS; i += 2) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(at) + i / 2);
      words[i] = v.x, words[i + 1] = v.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < BITS; ++i) words[i] = __ldg(reinterpret_cast<const uint32_t*>(at) + i);
  }
}

/// Columns of x that are in shared memory at once.
template <int R>
inline constexpr int kColumns = (R >= 8   ? 1
                                 : R >= 4 ? 2
                                 : R >= 2 ? 4
                                          : 8) *
                                kTileCodes;

/// The rows of x that a block takes, and the expert that multiplies them.
struct RowTile {
  int first, rows, expert;
  const int32_t* row_of;  // null: rows of x are as they are counted

  __device__ size_t row(int r) const { return size_t(row_of != nullptr ? row_of[first + r] : first + r); }
};
/// No rows where there is nothing to do.
__device__ inline RowTile tile_of(const ExpertTiles& tiles, int rows, int number, int tile_rows) {
  const int first = number * tile_rows;
  if (tiles.tile == nullptr) return {first, min(tile_rows, rows - first), 0, nullptr};
  if (number >= *tiles.count) return {0, 0, 0, nullptr};
  const ExpertTile& tile = tiles.tile[number];
  return {tile.first, tile.rows, tile.expert, tiles.row_of};
}

inline int place_terms(Terms& terms, int rows_a_block) {
  int blocks = 0;
  for (int t = 0; t < terms.count; ++t) {
    terms.first_block[t] = blocks;
    blocks += (terms.term[t].weight.out + rows_a_block - 1) / rows_a_block;
  }
  return terms.first_block[terms.count] = blocks;
}

/// What a launch multiplies: all rows, or tiles of them.
struct Work {
  const float* x;
  int rows, tile_rows;
  ExpertTiles tiles;

  unsigned blocks(int each) const { return unsigned(tiles.tile != nullptr ? tiles.most : (rows + each - 1) / each); }
};

/// Products with float codes (matmul_floats.cu). All terms have one kind and width of codes, and one group.
void run_floats(const Work& work, const Terms& terms, cudaStream_t stream);

}  // namespace bumblebee::cuda
