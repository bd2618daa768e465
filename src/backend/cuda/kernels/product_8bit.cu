// Products with codes of 8 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_8bit(int group, int tiles) { return product_kernel_of<8>(group, tiles); }

}  // namespace bumblebee::cuda
