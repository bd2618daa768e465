// matmul_wide.cuh for codes of two, three, five, six and eight bits.
#include "backend/cuda/kernels/matmul_wide.cuh"

namespace bumblebee::cuda {
namespace {

template <int Bits>
void run(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream, const WideLora& lora) {
  run_wide<Bits, 2>(x, terms, count, stream, lora);
}

}  // namespace

void run_other_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream,
                    const WideLora& lora) {
  switch (terms[0].weight.bits) {
    case 2: return run<2>(x, terms, count, stream, lora);
    case 3: return run<3>(x, terms, count, stream, lora);
    case 5: return run<5>(x, terms, count, stream, lora);
    case 6: return run<6>(x, terms, count, stream, lora);
    default: return run<8>(x, terms, count, stream, lora);
  }
}

}  // namespace bumblebee::cuda
