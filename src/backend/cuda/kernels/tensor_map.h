// Tensors as copy engines know them: 128 bytes that the driver makes. For nvcc only.
#pragma once

#include <cudaTypedefs.h>

#include <cstdint>

namespace bumblebee::cuda {

struct alignas(64) TensorMap {
  uint64_t words[16];
};
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

/// The driver's cuTensorMapEncodeTiled, asked for by name: nothing here links the driver. Null: it has none.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(status == cudaSuccess ? function : nullptr);
  }();
  return found;
}

}  // namespace bumblebee::cuda
