// What product.cu launches for stages with adapters that do not round x themselves.
#pragma once

#include "backend/cuda/kernels/product.h"

namespace bumblebee::cuda {

/// Shared memory that launch_shrink wants.
size_t shrink_shared_bytes(const ProductStage& stage);
/// Rows of one launch of a stage: x to digits, and u = A x.
cudaError_t launch_shrink(const ProductStage& stage, int processors, cudaStream_t stream);

}  // namespace bumblebee::cuda
