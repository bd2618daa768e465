// Products with codes of 5 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_5bit(int group, int tiles) { return product_kernel_of<5>(group, tiles); }

}  // namespace bumblebee::cuda
