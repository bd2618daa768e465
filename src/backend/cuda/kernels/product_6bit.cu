// Products with codes of 6 bits.
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

ProductKernel product_kernel_6bit(int group, int tiles) { return product_kernel_of<6>(group, tiles); }

}  // namespace bumblebee::cuda
