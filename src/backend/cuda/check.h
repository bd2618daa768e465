// The end of every call of the CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

namespace bumblebee::cuda {

/// Throws Error(device), or Error(out_of_memory), unless `status` is success. Errors that never go away are remembered:
/// is_lost().
void check(cudaError_t status, const char* what);

}  // namespace bumblebee::cuda
