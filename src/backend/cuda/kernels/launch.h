// Starting a kernel, with its error under its name. For nvcc only.
#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/check.h"
#include "backend/cuda/kernels/early_launch.h"

namespace bumblebee::cuda {

/// Nothing happens for an empty grid.
template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  kernel<<<grid, block, shared, stream>>>(Params(args)...);
  check(cudaGetLastError(), name);
}

/// The same for a kernel that may begin while the one before it still runs (early_launch.h).
template <class... Params, class... Args>
void launch_overlapping(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                        cudaStream_t stream, Args... args) {
  check(launch_early(kernel, grid, block, shared, stream, args...), name);
}

/// Lets a kernel have more shared memory than the 48 KiB that every kernel may.
template <class... Params>
void allow_shared(void (*kernel)(Params...), size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "shared memory");
}

}  // namespace bumblebee::cuda
