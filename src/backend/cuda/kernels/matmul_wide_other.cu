// matmul_wide.cuh for codes of two, three, five, six and eight bits.
#include "backend/cuda/kernels/matmul_wide.cuh"

namespace bumblebee::cuda {
namespace {

template <int Bits>
void run(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream) {
  if (x.group == 32) return run_wide<Bits, 2, 1, 2>(x, terms, count, stream);
  run_wide<Bits, 1, 1, 2>(x, terms, count, stream);
}

}  // namespace

void run_other_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream) {
  switch (terms[0].weight.bits) {
    case 2: return run<2>(x, terms, count, stream);
    case 3: return run<3>(x, terms, count, stream);
    case 5: return run<5>(x, terms, count, stream);
    case 6: return run<6>(x, terms, count, stream);
    default: return run<8>(x, terms, count, stream);
  }
}

}  // namespace bumblebee::cuda
