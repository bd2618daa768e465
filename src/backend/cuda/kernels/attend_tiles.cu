// attend_tiles.cuh over pages of bf16, and which caches have tiles.
#include "backend/cuda/kernels/attend_tiles.cuh"
#include "backend/cuda/kernels/card.h"

namespace bumblebee::cuda {

/// attend_tiles_int8.cu
void attend_tiles_int8(const AttendArgs& args, const BatchView& batch, cudaStream_t stream);

namespace {

/// As with_tiles() chooses.
size_t shared_of_tiles(int head_dim, bool capped) {
  if (capped) return head_dim <= 128 ? AttendTile<128>::kShared : AttendTile<256>::kShared;
  if (head_dim <= 32) return AttendTile<32>::kShared;
  if (head_dim <= 64) return AttendTile<64>::kShared;
  if (head_dim <= 96) return AttendTile<96>::kShared;
  return head_dim <= 128 ? AttendTile<128>::kShared : AttendTile<256>::kShared;
}

}  // namespace

bool has_attend_tiles(const KvView& kv, bool capped) {
  if (kv.value_dim > 0 || kv.head_dim > 256) return false;
  // A block may have 99 KB on compute capability 8.6 and 8.9, 163 on 8.0, 227 on 9.0.
  const size_t most = size_t(card_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>());
  if (shared_of_tiles(kv.head_dim, capped) > most) return false;
  return (kv.element == Element::bf16 && kv.head_dim % 8 == 0) || (kv.element == Element::i8 && kv.head_dim % 16 == 0);
}

void attend_tiles(const AttendArgs& args, const BatchView& batch, cudaStream_t stream) {
  if (args.kv.element == Element::i8) return attend_tiles_int8(args, batch, stream);
  with_tiles(args.kv.head_dim, args.soft_cap > 0,
             [&](auto dim, auto capped) { run_tiles<__nv_bfloat16, dim, capped>(args, batch, stream); });
}

}  // namespace bumblebee::cuda
