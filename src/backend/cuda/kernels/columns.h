// Operations that move columns or change each element by itself, and biases of experts. All tensors are f32, dense,
// row-major, on the device; everything is enqueued on the stream and returns at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace bumblebee::cuda {

/// What Activation names.
enum class Gate : int32_t { silu, gelu, sigmoid, clamped_silu, identity };
/// y = act(gate)·up, `count` elements. Of clamped_silu with these constants.
struct GateArgs {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;
  size_t count = 0;
  float limit = 0, slope = 0;
};
void gated_mul(Gate gate, const GateArgs& args, cudaStream_t stream);
/// x ·= factor.
void multiply(float* x, float factor, size_t count, cudaStream_t stream);

/// Columns [first, first + count) of x [rows, cols] -> y [rows, count].
void take_columns(const float* x, int rows, int cols, int first, int count, float* y, cudaStream_t stream);

inline constexpr int kMostPieces = 8, kMostParts = 4;
/// SplitParams as plain numbers: where each column of x [rows, groups·group_cols] goes.
struct SplitArgs {
  struct Piece {
    int32_t first = 0, cols = 0;  // within a group
    int32_t to = 0, at = 0;       // the output, and the column there of the first group's piece
  };
  const float* x = nullptr;
  float* y[kMostParts] = {};
  int32_t y_cols[kMostParts] = {};
  Piece piece[kMostPieces] = {};
  int32_t pieces = 0, rows = 0, groups = 0, group_cols = 0;
};
void split(const SplitArgs& args, cudaStream_t stream);

/// y[order[r][j]] += bias[experts[r][j]], rows of `cols` elements.
struct ExpertBias {
  float* y = nullptr;
  const float* bias = nullptr;       // [experts, cols]
  const int32_t* experts = nullptr;  // [rows, top_k]
  const int32_t* order = nullptr;    // the same
  int32_t assignments = 0, cols = 0;
};
void add_expert_bias(const ExpertBias& args, cudaStream_t stream);

}  // namespace bumblebee::cuda
