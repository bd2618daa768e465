// Chains of products of one row with codes of 4 bits in groups of 64.
#include "backend/cuda/kernels/product_chain.cuh"

namespace bumblebee::cuda {

ChainKernel chain_kernel_4bit(int runs, Beside beside) {
  static_assert(kMostRuns == 2);
  if (beside == Beside::attend_mma)
    return runs == 0   ? chain_kernel<4, 64, 0, 112>
           : runs == 1 ? chain_kernel<4, 64, 1, 112>
                       : chain_kernel<4, 64, 2, 112>;
  return runs == 0 ? chain_kernel<4, 64, 0, 96> : runs == 1 ? chain_kernel<4, 64, 1, 96> : chain_kernel<4, 64, 2, 96>;
}

}  // namespace bumblebee::cuda
