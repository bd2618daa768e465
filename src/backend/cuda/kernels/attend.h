// Attention over pages of keys and values.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

struct AttendArgs {
  KvView kv;
  const float* q = nullptr;  // [rows, heads·head_dim]
  const float* k = nullptr;  // [rows, kv_heads·head_dim]
  const float* v = nullptr;
  float* out = nullptr;  // [rows, heads·head_dim]
  int layer = 0, heads = 0, window = 0;
  float scale = 1;
};

/// Writes the rows' keys and values to their pages, rounded to the cache's type.
void append_kv(const AttendArgs& args, const BatchView& batch, cudaStream_t stream);
/// out = softmax(scale·q·k)·v. `workspace` has attend_workspace() bytes.
void attend(const AttendArgs& args, const BatchView& batch, void* workspace, cudaStream_t stream);
/// 0 where a row's past is not split over several blocks.
size_t attend_workspace(int rows, int heads, int head_dim);

inline constexpr int kMaxHeadDim = 256;

}  // namespace bumblebee::cuda
