// attend_tiles.cuh over pages of bf16, and which caches have tiles.
#include "backend/cuda/kernels/attend_tiles.cuh"
#include "backend/cuda/kernels/card.h"

namespace bumblebee::cuda {

/// Over pages of int8.
void attend_tiles_int8(const AttendArgs& args, const BatchView& batch, cudaStream_t stream);

namespace {

size_t shared_of_tiles(int head_dim) {
  if (head_dim <= 32) return AttendTile<32>::kShared;
  if (head_dim <= 64) return AttendTile<64>::kShared;
  if (head_dim <= 96) return AttendTile<96>::kShared;
  return head_dim <= 128 ? AttendTile<128>::kShared : AttendTile<256>::kShared;
}

}  // namespace

bool has_attend_tiles(const KvView& kv) {
  // A block may have 99 KB on compute capability 8.6 and 8.9, 163 on 8.0, 227 on 9.0.
  if (shared_of_tiles(kv.head_dim) > size_t(card_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>())) return false;
  return (kv.element == Element::bf16 && kv.head_dim % 8 == 0) || (kv.element == Element::i8 && kv.head_dim % 16 == 0);
}

void attend_tiles(const AttendArgs& args, const BatchView& batch, cudaStream_t stream) {
  if (args.kv.element == Element::i8) return attend_tiles_int8(args, batch, stream);
  run_tiles<__nv_bfloat16>(args, batch, stream);
}

}  // namespace bumblebee::cuda
