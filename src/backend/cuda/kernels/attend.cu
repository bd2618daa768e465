// Which kernel attention takes: attend_few.cuh for what most models have, and for rows of the others attend_other.cu;
// segments of several rows take attend_tiles.cuh where a cache has tiles.
#include "backend/cuda/kernels/attend_few.cuh"
#include "backend/cuda/kernels/attend_tiles.h"
#include "backend/cuda/kernels/past_tile.cuh"

namespace bumblebee::cuda {

/// Scores that are capped, values within keys, and heads of more than kCommonHeadDim.
void attend_other(const AttendArgs& args, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
                  cudaStream_t stream);
/// Where has_attend_mma() says so.
void attend_mma(const AttendArgs& args, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
                cudaStream_t stream);

namespace {

template <class T, int Lanes>
void run(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
         cudaStream_t stream) {
  if (a.heads == a.kv.kv_heads) return run_few<T, FewShape<Lanes, 1>>(a, batch, workspace, lone, stream);
  run_few<T, FewShape<Lanes, 2>>(a, batch, workspace, lone, stream);
}
template <class T>
void run(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
         cudaStream_t stream) {
  if (a.kv.head_dim % kPart != 0) return run_few<T, FewShape<kWarp, 1, 1, false>>(a, batch, workspace, lone, stream);
  if (a.kv.head_dim <= 64) return run<T, 8>(a, batch, workspace, lone, stream);
  if (a.kv.head_dim <= 128) return run<T, 16>(a, batch, workspace, lone, stream);
  run<T, kWarp>(a, batch, workspace, lone, stream);
}

}  // namespace

static_assert(kPastSplits <= kSplits);
size_t attend_partials(int rows, int heads, int values) {
  return rows > kSplitRows ? 0 : size_t(rows) * size_t(heads) * kSplits * size_t(2 + values) * sizeof(float);
}

size_t attend_counters(int heads) { return size_t(kSplitRows) * size_t(heads) * sizeof(uint32_t); }

void attend(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, cudaStream_t stream) {
  const bool lone = batch.segment_count > 0 && has_attend_tiles(a.kv, a.soft_cap > 0);  // the others are tiles'
  if (lone) attend_tiles(a, batch, stream);
  if (has_attend_mma(a)) return attend_mma(a, batch, workspace, lone, stream);
  if (a.soft_cap > 0 || a.kv.value_dim > 0 || a.kv.head_dim > kCommonHeadDim)
    return attend_other(a, batch, workspace, lone, stream);
  switch (a.kv.element) {
    case Element::f32: return run<float>(a, batch, workspace, lone, stream);
    case Element::f16: return run<__half>(a, batch, workspace, lone, stream);
    case Element::bf16: return run<__nv_bfloat16>(a, batch, workspace, lone, stream);
    case Element::i8: return run<Int8>(a, batch, workspace, lone, stream);
  }
}

}  // namespace bumblebee::cuda
