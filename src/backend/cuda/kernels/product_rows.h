// Products of two to 64 rows with affine weights of 4 bits on Hopper's tensor cores: the arithmetic of product.h, and
// its bits, with W as the left side of wgmma. Four blocks of a cluster share tiles of outputs, each with a quarter of
// the inputs, so that a block's share of x is small; sums meet through the cluster's shared memory.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/product_stage.h"

namespace bumblebee::cuda {

inline constexpr int kLeastTileRows = 2, kMostTileRows = 64;

/// Whether a stage of so many rows takes this kernel on this card, in fast precision: by its format and length alone.
bool takes_row_tiles(const ProductStage& stage, int rows);

/// Whether such a stage rounds x itself (StageInput::Kind::plain or rms_norm): few rows that fit. Else it wants
/// `tiles`.
bool rounds_row_tiles(const ProductStage& stage, int rows);

/// Whether launch_stage() takes it so: several rows that are not digits.
bool has_row_tiles(const ProductStage& stage);

/// x as StageInput::Kind::tiles has it.
size_t row_tile_bytes(int rows, int in);
size_t row_step_bytes(int rows, int in);
/// x [rows, in] f32 -> `input.rounded`; `input.kind` is plain or rms_norm.
cudaError_t round_row_tiles(const StageInput& input, int rows, int in, cudaStream_t stream);
/// Bytes that a stage wants at `workspace`, which it may share with those of product.h.
size_t row_tile_workspace(const ProductStage& stage);
/// As launch_stage().
cudaError_t launch_row_tiles(const ProductStage& stage, cudaStream_t stream);

}  // namespace bumblebee::cuda
