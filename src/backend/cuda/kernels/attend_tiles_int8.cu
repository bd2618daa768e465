// attend_tiles.cuh over pages of int8: codes are exact bf16 numbers, and their steps go to scores and probabilities.
#include "backend/cuda/kernels/attend_tiles.cuh"

namespace bumblebee::cuda {

void attend_tiles_int8(const AttendArgs& args, const BatchView& batch, cudaStream_t stream) {
  with_tiles(args.kv.head_dim, args.soft_cap > 0,
             [&](auto dim, auto capped) { run_tiles<Int8, dim, capped>(args, batch, stream); });
}

}  // namespace bumblebee::cuda
