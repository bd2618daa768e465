// attend_tiles.cuh over pages of bf16, and which caches have tiles.
#include "backend/cuda/kernels/attend_tiles.cuh"

namespace bumblebee::cuda {

/// Over pages of int8.
void attend_tiles_int8(const AttendArgs& args, const BatchView& batch, cudaStream_t stream);

bool has_attend_tiles(const KvView& kv) {
  return (kv.element == Element::bf16 && kv.head_dim % 8 == 0) || (kv.element == Element::i8 && kv.head_dim % 16 == 0);
}

void attend_tiles(const AttendArgs& args, const BatchView& batch, cudaStream_t stream) {
  if (args.kv.element == Element::i8) return attend_tiles_int8(args, batch, stream);
  run_tiles<__nv_bfloat16>(args, batch, stream);
}

}  // namespace bumblebee::cuda
