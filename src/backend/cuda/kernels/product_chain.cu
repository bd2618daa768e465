// Chains of products of one row with codes of 4 bits in groups of 64.
#include "backend/cuda/kernels/product_chain.cuh"

namespace bumblebee::cuda {

ChainKernel chain_kernel_4bit() { return chain_kernel<4, 64>; }

}  // namespace bumblebee::cuda
