// Choosing experts, and gates of rows. Everything is enqueued on the stream and nothing comes back to the host:
// grids are as large as they could ever have to be.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/expert_plan.h"

namespace bumblebee::cuda {

/// RouterParams as plain numbers.
struct RouteArgs {
  const float* logits = nullptr;        // [rows, experts]
  const float* bias = nullptr;          // [experts], or null
  const float* expert_scale = nullptr;  // the same
  int32_t* experts = nullptr;           // [rows, top_k]
  float* weights = nullptr;             // [rows, top_k]
  std::byte* order = nullptr;           // i32 [rows, top_k], and what expert_places() says
  ExpertShape shape;
  int groups = 1, top_groups = 1;
  bool best_alone = false;
  bool softmax = true, normalise = true;
  float scale = 1;
  double beside_sum = 0;
};
void route(const RouteArgs& args, cudaStream_t stream);

/// y[r] *= sigmoid(gate[r]), [rows, cols].
void gate_rows(float* y, const float* gate, int rows, int cols, cudaStream_t stream);

}  // namespace bumblebee::cuda
