// Products per head: a matrix for each head of a row.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// Ops::matmul_heads. `weight` is a stack of `heads` matrices [stored_out, weight.in].
struct HeadsArgs {
  WeightView weight;
  const float* x = nullptr;  // [rows, heads·(in + rest)]
  float* y = nullptr;        // [rows, heads·(out + rest)]
  int rows = 0, heads = 0, stored_out = 0, rest = 0;
  bool transposed = false;
};
/// Sums are f32 and do not depend on the number of rows.
void matmul_heads(const HeadsArgs& args, cudaStream_t stream);

}  // namespace bumblebee::cuda
