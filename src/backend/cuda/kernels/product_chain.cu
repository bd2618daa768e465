// Chains of products of one row with codes of 4 bits in groups of 64.
#include "backend/cuda/kernels/product_chain.cuh"

namespace bumblebee::cuda {

ChainKernel chain_kernel_4bit(int runs) {
  static_assert(kMostRuns == 2);
  return runs == 0 ? chain_kernel<4, 64> : runs == 1 ? adapted_chain_kernel<4, 64, 1> : adapted_chain_kernel<4, 64, 2>;
}

}  // namespace bumblebee::cuda
