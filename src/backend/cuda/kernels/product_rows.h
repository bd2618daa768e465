// Products of two to 64 rows with affine weights of 4 bits on Hopper's tensor cores: the arithmetic of product.h, and
// its bits, with W as the left side of wgmma. Four blocks of a cluster share tiles of outputs, each with a quarter of
// the inputs, so that a block's share of x is small; sums meet through the cluster's shared memory. Adapters are part
// of them: the kernel that rounds x also forms u = A x, and whoever finishes a tile adds B u, in the order of
// low_rank.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/product_stage.h"

namespace bumblebee::cuda {

inline constexpr int kLeastTileRows = 2, kMostTileRows = 64;

/// Whether a stage of so many rows takes this kernel on this card, in fast precision: by its format and length alone.
bool takes_row_tiles(const ProductStage& stage, int rows);

/// Adapters of the rows of x: each row's slot adds Σ scale·(B(A x) + b) to the terms. Rows whose slot does more than
/// that are left alone. Factors are bf16.
struct TileLora {
  const SlotTableView* slots = nullptr;
  const int32_t* slot = nullptr;        // of the batch's rows
  const int32_t* logit_rows = nullptr;  // those of the batch that x holds, or null: all
  int32_t site[kStageTerms] = {};       // of each term
  int32_t ranks = 0;                    // the most that a slot has for one term, padded_rank() each; 0: no adapters
  float* u = nullptr;                   // A x, tile_lora_bytes()
};
/// Whether a stage that takes this kernel may have these: not too many ranks.
bool fits_row_lora(const ProductStage& stage, const TileLora& lora);
size_t tile_lora_bytes(const ProductStage& stage, const TileLora& lora);

/// Whether such a stage rounds x itself (StageInput::Kind::plain or rms_norm): few rows that fit, without adapters.
/// Else it wants `tiles`.
bool rounds_row_tiles(const ProductStage& stage, int rows);

/// Whether launch_stage() takes it so: several rows that are not digits.
bool has_row_tiles(const ProductStage& stage);

/// x as StageInput::Kind::tiles has it.
size_t row_tile_bytes(int rows, int in);
size_t row_step_bytes(int rows, int in);
/// x [rows, in] f32 -> `input.rounded`; `input.kind` is plain or rms_norm. With adapters `lora.u` too.
cudaError_t round_row_tiles(const ProductStage& stage, cudaStream_t stream, const TileLora& lora = {});
/// Bytes that a stage wants at `workspace`, which it may share with those of product.h.
size_t row_tile_workspace(const ProductStage& stage);
/// What is known of the stage with adapters after one: its factors A come to L2 meanwhile. No result depends on it.
struct NextAdapters {
  int32_t site[kStageTerms] = {};
  int32_t terms = 0, in = 0;
};
/// As launch_stage().
cudaError_t launch_row_tiles(const ProductStage& stage, cudaStream_t stream, const TileLora& lora = {},
                             const NextAdapters& next = {});

}  // namespace bumblebee::cuda
