// Products of many rows on Hopper's tensor cores (matmul_wide.cuh): x as f16 numbers of a power of two that the row has
// for itself, codes as they are.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/matmul.h"
#include "backend/cuda/kernels/unpack.h"

namespace bumblebee::cuda {

/// x is kept in blocks of 64 rows; a tile of a block has 64 columns in the order in which codes are met.
inline constexpr int kBlockRows = 64, kTileColumns = 64;
inline constexpr int kTileBytes = kBlockRows * kTileColumns * 2;

BB_BOTH constexpr int tiles_of(int columns) { return (columns + kTileColumns - 1) / kTileColumns; }
/// Tiles that hold the sums of x over groups, each as two f16 numbers.
BB_BOTH constexpr int sum_tiles_of(int in, int group) { return tiles_of(in / group * 2); }

/// x as the kernels read it.
struct WideInput {
  uint8_t* tiles = nullptr;  // [blocks of rows][tiles of in, then of sums][kTileBytes]
  float* steps = nullptr;    // [blocks of rows, 64] what 1 is worth
  int rows = 0, in = 0, group = 0;
};
/// Blocks of rows that are kept, those of a tile that is not full among them.
int wide_blocks(int rows);
size_t wide_bytes(int rows, int in, int group);
/// The input in `workspace`, which has wide_bytes().
WideInput wide_input(void* workspace, int rows, int in, int group);
/// Rounds x [rows, in]. Of experts the input has a block of 64 rows for each tile.
void round_wide(const float* x, const WideInput& to, cudaStream_t stream, const ExpertTiles& experts = {});

/// Whether this card and this format have the kernels below.
bool has_matmul_wide(const WeightView& weight, int experts = 1);
/// All terms have one format, and the input's group.
void matmul_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream);
/// The same for stacks, whose tiles have 64 rows: y [assignments, out].
void matmul_wide_experts(const WideInput& x, const ExpertTiles& tiles, const ProductTerm* terms, int count,
                         cudaStream_t stream);

}  // namespace bumblebee::cuda
