// matmul_wide.cuh for stacks of experts: a tile has 64 rows of x, which one expert multiplies.
#include "backend/cuda/kernels/matmul_wide.cuh"

namespace bumblebee::cuda {
namespace {

template <int Bits>
void run(const WideInput& x, const ExpertTiles& tiles, const ProductTerm* terms, int count, cudaStream_t stream) {
  static_assert(kWideTileRows == kBlockRows);
  run_wide<Bits, 1, true>(x, terms, count, stream, {}, tiles);
}

}  // namespace

void matmul_wide_experts(const WideInput& x, const ExpertTiles& tiles, const ProductTerm* terms, int count,
                         cudaStream_t stream) {
  if (terms[0].weight.code == Code::e2m1) return run_wide<4, 1, true, Code::e2m1>(x, terms, count, stream, {}, tiles);
  switch (terms[0].weight.bits) {
    case 2: return run<2>(x, tiles, terms, count, stream);
    case 3: return run<3>(x, tiles, terms, count, stream);
    case 4: return run<4>(x, tiles, terms, count, stream);
    case 5: return run<5>(x, tiles, terms, count, stream);
    case 6: return run<6>(x, tiles, terms, count, stream);
    default: return run<8>(x, tiles, terms, count, stream);
  }
}

}  // namespace bumblebee::cuda
