// Products with codes of 2 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_2bit(int group, int tiles) { return product_kernel_of<2>(group, tiles); }

}  // namespace bumblebee::cuda
