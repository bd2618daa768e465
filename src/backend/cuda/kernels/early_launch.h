// Programmatic dependent launch: a kernel may begin while the one before it still runs, if it calls wait_for_inputs()
// (ptx.cuh) before it touches what others write. Every such kernel must call it, needed or not: only then has all that
// came earlier ended when it returns. Before sm_90 kernels follow each other. All of them ask for the same division of
// L1 and shared memory: a multiprocessor changes it only when it is empty, so kernels that want another cannot overlap.
// For nvcc only.
#pragma once

#include "backend/cuda/kernels/card.h"

namespace bumblebee::cuda {

inline bool can_launch_early() { return code_major() >= 9; }

/// Nothing happens for an empty grid.
template <class... Params, class... Args>
cudaError_t launch_early(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                         const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  const cudaError_t divided =
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (divided != cudaSuccess) return divided;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = can_launch_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

}  // namespace bumblebee::cuda
