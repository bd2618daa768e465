// Products with codes of 3 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_3bit(int group, int tiles) { return product_kernel_of<3>(group, tiles); }

}  // namespace bumblebee::cuda
