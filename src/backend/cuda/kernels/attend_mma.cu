// attend_mma.cuh over what most models cache.
#include "backend/cuda/kernels/attend_mma.cuh"

namespace bumblebee::cuda {
namespace {

template <class T, int Dim, bool Rotates>
void run(const AttendArgs& a, const AttendRotation& rotation, const BatchView& batch, const AttendWorkspace& workspace,
         bool lone, cudaStream_t stream) {
  const int sets = (a.heads / a.kv.kv_heads + kMmaHeads - 1) / kMmaHeads;
  // As many as are there at once: a block with several splits begins once.
  const int blocks = batch.rows * a.kv.kv_heads * sets, most = card_attribute<cudaDevAttrMultiProcessorCount>() * 2;
  int splits = workspace.partials == nullptr ? 1 : kPastSplits;
  while (splits > 1 && blocks * splits > most) splits /= 2;
  const auto launch = [&](auto kernel) {
    launch_overlapping(
        "attend", kernel,
        {unsigned(lone ? batch.lone_row_count : batch.rows), unsigned(a.kv.kv_heads * sets), unsigned(splits)},
        {kMmaThreads}, 0, stream, a, rotation, batch, workspace, lone, lone ? 1 : batch.rows);
  };
  if constexpr (Rotates)  // a second round would take as long as the first
    if (splits == 1 && 2 * blocks > 3 * most) return launch(attend_mma_kernel<T, Dim, Rotates, kMmaRegistersOfMany>);
  launch(attend_mma_kernel<T, Dim, Rotates>);
}
template <bool Rotates>
void run(const AttendArgs& a, const AttendRotation& rotation, const BatchView& batch, const AttendWorkspace& workspace,
         bool lone, cudaStream_t stream) {
  const auto with = [&](auto type) {
    using T = decltype(type);
    if (a.kv.head_dim == 64) return run<T, 64, Rotates>(a, rotation, batch, workspace, lone, stream);
    run<T, 128, Rotates>(a, rotation, batch, workspace, lone, stream);
  };
  if (a.kv.element == Element::i8) return with(Int8());
  with(__nv_bfloat16());
}

}  // namespace

bool has_attend_mma(const AttendArgs& a) {
  return !a.exact && a.soft_cap == 0 && a.kv.value_dim == 0 && (a.kv.head_dim == 64 || a.kv.head_dim == 128) &&
         (a.kv.element == Element::bf16 || a.kv.element == Element::i8);
}

void attend_mma(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
                cudaStream_t stream) {
  run<false>(a, {}, batch, workspace, lone, stream);
}

void rotate_and_attend(const AttendArgs& a, const AttendRotation& rotation, const BatchView& batch,
                       const AttendWorkspace& workspace, cudaStream_t stream) {
  run<true>(a, rotation, batch, workspace, false, stream);
}

}  // namespace bumblebee::cuda
