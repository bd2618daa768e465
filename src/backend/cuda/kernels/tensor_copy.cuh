// Copies of tensors' boxes to shared memory, which arrive at a barrier as bytes.
#pragma once

#include <cstdint>

#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA
/// The box at column x and row y of a map of two dimensions.
__device__ __forceinline__ void copy_box_2d(uint32_t to, const void* map, int x, int y, uint32_t gate,
                                            uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(gate), "l"(policy)
      : "memory");
}
#endif

}  // namespace bumblebee::cuda
