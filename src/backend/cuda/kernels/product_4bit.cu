// Products with codes of 4 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_4bit(int group, int tiles) { return product_kernel_of<4>(group, tiles); }

}  // namespace bumblebee::cuda
