// Attention of sequences that have several rows in a step (attend_tiles.cuh).
#pragma once

#include "backend/cuda/kernels/attend.h"

namespace bumblebee::cuda {

/// Query heads of one tile, which share keys and values.
constexpr int heads_of_tile(int heads_of_kv) {
  const int sets = (heads_of_kv + 15) / 16;
  return (heads_of_kv + sets - 1) / sets;
}
/// Whether a cache has the kernel: bf16 and int8, values apart from keys, heads of whole octets up to 256.
bool has_attend_tiles(const KvView& kv, bool capped);
/// The rows of the batch's `segments`.
void attend_tiles(const AttendArgs& args, const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
