// Kernels of product_rows.h with adapters: a unit of their own, since they compile as long as those without.
#include "backend/cuda/kernels/product_rows_kernel.cuh"

namespace bumblebee::cuda {

RowsKernel rows_kernel_with_adapters(const RowShape& shape, bool bf16) {
  return bf16 ? find_rows_kernel<true, true>(shape) : find_rows_kernel<false, true>(shape);
}

}  // namespace bumblebee::cuda
