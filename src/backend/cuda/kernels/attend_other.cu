// attend_few.cuh for what few models have: scores that are capped, values within keys, heads of more than 256.
#include "backend/cuda/kernels/attend_few.cuh"

namespace bumblebee::cuda {
namespace {

/// The widest of which two fit in the shared memory that every kernel may have.
constexpr int kTwoLatents = 640;

template <class T>
void run(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
         cudaStream_t stream) {
  constexpr int kAll = kMaxHeadDim / (kWarp * kPart);  // octets that are enough for every head
  const bool whole = a.kv.head_dim % kPart == 0 && a.kv.values() % kPart == 0;
  const bool capped = a.soft_cap > 0;
  if (a.kv.value_dim > 0) {
    // 512 and 64 features, as all models have.
    if (whole && !capped && a.kv.head_dim <= kTwoLatents)
      return run_few<T, FewShape<kWarp, 2, 3, true, false, true>>(a, batch, workspace, lone, stream);
    return run_few<T, FewShape<kWarp, 1, kAll, false, true, true>>(a, batch, workspace, lone, stream);
  }
  if (a.kv.head_dim > kCommonHeadDim) {
    if (whole && !capped && a.kv.head_dim <= 2 * kCommonHeadDim)
      return run_few<T, FewShape<kWarp, 2, 2>>(a, batch, workspace, lone, stream);
    return run_few<T, FewShape<kWarp, 1, kAll, false, true>>(a, batch, workspace, lone, stream);
  }
  if (!whole) return run_few<T, FewShape<kWarp, 1, 1, false, true>>(a, batch, workspace, lone, stream);
  if (a.kv.head_dim <= 128) return run_few<T, FewShape<16, 2, 1, true, true>>(a, batch, workspace, lone, stream);
  run_few<T, FewShape<kWarp, 2, 1, true, true>>(a, batch, workspace, lone, stream);
}

}  // namespace

void attend_other(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
                  cudaStream_t stream) {
  switch (a.kv.element) {
    case Element::f32: return run<float>(a, batch, workspace, lone, stream);
    case Element::f16: return run<__half>(a, batch, workspace, lone, stream);
    case Element::bf16: return run<__nv_bfloat16>(a, batch, workspace, lone, stream);
    case Element::i8: return run<Int8>(a, batch, workspace, lone, stream);
  }
}

}  // namespace bumblebee::cuda
