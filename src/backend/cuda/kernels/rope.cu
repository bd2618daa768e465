// A warp for each head.
#include "backend/cuda/kernels/rope.h"

#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/rotate.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kHeads = 4;      // of a block
constexpr int kRowHeads = 8;   // at once, of a block that has a row
constexpr int kManyRows = 32;  // more take such blocks

struct Warp {
  int lane, row, head;
  float* scratch;
};
template <int Most>
__device__ inline Warp this_warp(float (&scratch)[kHeads][Most], int heads) {
  const int warp = int(threadIdx.x) / kWarp, index = int(blockIdx.x) * kHeads + warp;
  return {int(threadIdx.x) % kWarp, index / heads, index % heads, scratch[warp]};
}

/// Heads of q, then of k.
__device__ inline void rotate(const Warp& at, const HeadRows& q, const HeadRows& k, int dim, int half,
                              const Rotation<>& rotation) {
  const HeadRows& heads = at.head < q.heads ? q : k;
  const int number = at.head < q.heads ? at.head : at.head - q.heads;
  const size_t first = (size_t(at.row) * size_t(heads.heads) + size_t(number)) * size_t(dim);
  norm_rope_head(heads, heads.x + first, dim, half, rotation, at.lane, at.scratch);
  for (int i = at.lane; i < dim; i += kWarp) __stcg(heads.y + first + i, at.scratch[i]);
}

__global__ void norm_rope_kernel(HeadRows q, HeadRows k, int dim, RopeArgs rope, BatchView batch) {
  __shared__ float scratch[kHeads][kCommonHeadDim];
  launch_dependents();
  const Warp at = this_warp(scratch, q.heads + k.heads);
  const bool there = at.row < batch.rows;
  const Rotation<> rotation =
      rotation_of(rope, at.head < q.heads ? q.norm : k.norm, dim, there ? batch.positions[at.row] : 0, at.lane);
  wait_for_inputs();
  if (there) rotate(at, q, k, dim, rope.half, rotation);
}

template <class T>
__global__ void append_kernel(KvView kv, const float* k, const float* v, BatchView batch) {
  const int row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp;
  const KvPlace place = place_of_row(kv, batch, row);
  for (int h = int(threadIdx.x) / kWarp; h < kv.kept() * kv.kv_heads; h += int(blockDim.x) / kWarp) {
    const int which = h / kv.kv_heads, head = h % kv.kv_heads;
    const float* from = (which == 0 ? k : v) + (size_t(row) * size_t(kv.kv_heads) + size_t(head)) * size_t(kv.head_dim);
    append<T>(kv, which, head, place, from, lane);
  }
}

template <class T>
__global__ void norm_rope_append_kernel(HeadRows q, HeadRows k, const float* v, RopeArgs rope, KvView kv,
                                        BatchView batch) {
  __shared__ float scratch[kHeads][kCommonHeadDim];
  launch_dependents();
  const int dim = kv.head_dim, rotated = q.heads + k.heads;
  const Warp at = this_warp(scratch, rotated + kv.kv_heads);
  const bool there = at.row < batch.rows;
  Rotation<> rotation;
  KvPlace place;
  if (there) {
    if (at.head < rotated)
      rotation = rotation_of(rope, at.head < q.heads ? q.norm : k.norm, dim, batch.positions[at.row], at.lane);
    if (at.head >= q.heads) place = place_of_row(kv, batch, at.row);
  }
  wait_for_inputs();
  if (!there) return;
  if (at.head < rotated) {
    rotate(at, q, k, dim, rope.half, rotation);
    if (at.head >= q.heads) append<T, false>(kv, 0, at.head - q.heads, place, at.scratch, at.lane);
    return;
  }
  const int head = at.head - rotated;
  take_head<kCommonHeadDim>(v + (size_t(at.row) * size_t(kv.kv_heads) + size_t(head)) * size_t(dim), dim, at.lane,
                            at.scratch);
  append<T, false>(kv, 1, head, place, at.scratch, at.lane);
}

/// Every norm and rotation there is; with `kv` keys and values go to their pages.
template <class T, bool Append>
__global__ void any_kernel(HeadRows q, HeadRows k, const float* v, int dim, RopeArgs rope, KvView kv, BatchView batch) {
  __shared__ float scratch[kHeads][kMaxHeadDim];
  launch_dependents();
  const int rotated = q.heads + k.heads;
  const Warp at = this_warp(scratch, rotated + (Append && v != nullptr ? kv.kv_heads : 0));
  wait_for_inputs();
  if (at.row >= batch.rows) return;
  KvPlace place;
  if (Append && at.head >= q.heads) place = place_of_row(kv, batch, at.row);
  if (at.head < rotated) {
    const bool query = at.head < q.heads;
    const HeadRows& heads = query ? q : k;
    const int number = query ? at.head : at.head - q.heads, position = batch.positions[at.row];
    const size_t first = (size_t(at.row) * size_t(heads.heads) + size_t(number)) * size_t(dim);
    const bool of_long = rope.long_inv_freq != nullptr && batch.stretched[at.row] != 0;
    norm_rope_any(heads, heads.x + first, dim, rope, of_long ? rope.long_inv_freq : rope.inv_freq, position,
                  query && rope.query_growth != 0 ? query_factor(rope, position) : 1.0f, at.lane, at.scratch);
    for (int i = at.lane; i < dim; i += kWarp) __stcg(heads.y + first + i, at.scratch[i]);
    if (Append && !query) append<T>(kv, 0, number, place, at.scratch, at.lane);
    return;
  }
  const int head = at.head - rotated;
  take_head<kMaxHeadDim>(v + (size_t(at.row) * size_t(kv.kv_heads) + size_t(head)) * size_t(dim), dim, at.lane,
                         at.scratch);
  append<T>(kv, 1, head, place, at.scratch, at.lane);
}

/// The same for many rows, of heads that are rotated whole: a block for each row, whose warps share its angles among
/// their heads. Pairs: of a lane. In the order of norm_rope_head, with the bits of it.
template <class T, int Pairs>
__global__ void __launch_bounds__(kRowHeads* kWarp)
    norm_rope_append_rows_kernel(HeadRows q, HeadRows k, const float* v, RopeArgs rope, KvView kv, BatchView batch) {
  constexpr int kHalf = Pairs * kWarp, kDim = 2 * kHalf;
  __shared__ float scratch[kRowHeads][kDim];
  launch_dependents();
  const int rotated = q.heads + k.heads, row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp;
  const int first = int(threadIdx.x) / kWarp;
  float* const own = scratch[first];
  const Rotation<> rotation = rotation_of(rope, nullptr, kDim, batch.positions[row], lane);
  const KvPlace place = place_of_row(kv, batch, row);
  wait_for_inputs();
  const auto rotate_heads = [&](const HeadRows& heads, int from, int to, auto done) {
    float norm[2 * Pairs] = {};
    if (heads.norm != nullptr) {
#pragma unroll
      for (int j = 0; j < 2 * Pairs; ++j) norm[j] = __ldg(heads.norm + j * kWarp + lane);
    }
    for (int head = from; head < to; head += kRowHeads) {
      const size_t at = (size_t(row) * size_t(heads.heads) + size_t(head)) * kDim + size_t(lane);
      float x[2 * Pairs];
#pragma unroll
      for (int j = 0; j < 2 * Pairs; ++j) x[j] = __ldcg(heads.x + at + j * kWarp);
      if (heads.norm != nullptr) {
        float squares = 0;
#pragma unroll
        for (int j = 0; j < 2 * Pairs; ++j) squares = fmaf(x[j], x[j], squares);
        const float inverse = 1 / sqrtf(warp_sum(squares) / float(kDim) + heads.eps);
#pragma unroll
        for (int j = 0; j < 2 * Pairs; ++j) x[j] = x[j] * inverse * norm[j];
      }
#pragma unroll
      for (int j = 0; j < Pairs; ++j) {
        const float a = x[j] * rotation.cosine[j] - x[j + Pairs] * rotation.sine[j],
                    b = x[j + Pairs] * rotation.cosine[j] + x[j] * rotation.sine[j];
        x[j] = a, x[j + Pairs] = b;
        __stcg(heads.y + at + j * kWarp, a);
        __stcg(heads.y + at + kHalf + j * kWarp, b);
      }
      done(head, x);
    }
  };
  const auto append_head = [&](int which, int head, const float(&x)[2 * Pairs]) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2 * Pairs; ++j) own[j * kWarp + lane] = x[j];
    __syncwarp();
    append<T, false>(kv, which, head, place, own, lane);
  };
  // Warps go on with keys, then values, where those of the queries end.
  const int keys = (first + kRowHeads - q.heads % kRowHeads) % kRowHeads,
            values = (first + kRowHeads - rotated % kRowHeads) % kRowHeads;
  rotate_heads(q, first, q.heads, [](int, const auto&) {});
  rotate_heads(k, keys, k.heads, [&](int head, const auto& x) { append_head(0, head, x); });
  for (int head = values; head < kv.kv_heads; head += kRowHeads) {
    const float* const at = v + (size_t(row) * size_t(kv.kv_heads) + size_t(head)) * kDim + lane;
    float x[2 * Pairs];
#pragma unroll
    for (int j = 0; j < 2 * Pairs; ++j) x[j] = __ldcg(at + j * kWarp);
    append_head(1, head, x);
  }
}

/// f(T) for the cache's type.
template <class F>
void with_type(Element element, const F& f) {
  switch (element) {
    case Element::f32: return f(float());
    case Element::f16: return f(__half());
    case Element::bf16: return f(__nv_bfloat16());
    case Element::i8: return f(Int8());
  }
}

dim3 blocks(int rows, int heads) { return {unsigned((rows * heads + kHeads - 1) / kHeads)}; }

}  // namespace

bool is_common(const HeadRows& q, const HeadRows& k, int dim, const RopeArgs& rope) {
  const auto whole = [&](const HeadRows& heads) { return heads.norm == nullptr || heads.normed == dim; };
  return dim <= kCommonHeadDim && whole(q) && whole(k) && rope.first == 0 && !rope.interleaved &&
         rope.long_inv_freq == nullptr && rope.query_growth == 0;
}

void norm_rope(const HeadRows& q, const HeadRows& k, int head_dim, const RopeArgs& rope, const BatchView& batch,
               cudaStream_t stream) {
  const dim3 grid = blocks(batch.rows, q.heads + k.heads);
  if (is_common(q, k, head_dim, rope)) {
    launch_overlapping("norm_rope", norm_rope_kernel, grid, {kHeads * kWarp}, 0, stream, q, k, head_dim, rope, batch);
    return;
  }
  launch_overlapping("norm_rope", any_kernel<float, false>, grid, {kHeads * kWarp}, 0, stream, q, k, nullptr, head_dim,
                     rope, KvView(), batch);
}

void append_kv(const KvView& kv, const float* k, const float* v, const BatchView& batch, cudaStream_t stream) {
  with_type(kv.element, [&](auto type) {
    launch("append_kv", append_kernel<decltype(type)>, {unsigned(batch.rows)}, {128}, 0, stream, kv, k, v, batch);
  });
}

void norm_rope_append(const HeadRows& q, const HeadRows& k, const float* v, const RopeArgs& rope, const KvView& kv,
                      const BatchView& batch, cudaStream_t stream) {
  const dim3 grid = blocks(batch.rows, q.heads + k.heads + (v != nullptr ? kv.kv_heads : 0));
  const bool common = is_common(q, k, kv.head_dim, rope) && v != nullptr;
  with_type(kv.element, [&](auto type) {
    using Type = decltype(type);
    const auto rows_kernel = rope.half == 4 * kWarp   ? norm_rope_append_rows_kernel<Type, 4>
                             : rope.half == 2 * kWarp ? norm_rope_append_rows_kernel<Type, 2>
                             : rope.half == kWarp     ? norm_rope_append_rows_kernel<Type, 1>
                                                      : nullptr;
    if (common && batch.rows > kManyRows && 2 * rope.half == kv.head_dim && rows_kernel != nullptr) {
      launch_overlapping("norm_rope_append", rows_kernel, {unsigned(batch.rows)}, {kRowHeads * kWarp}, 0, stream, q, k,
                         v, rope, kv, batch);
      return;
    }
    if (common) {
      launch_overlapping("norm_rope_append", norm_rope_append_kernel<decltype(type)>, grid, {kHeads * kWarp}, 0, stream,
                         q, k, v, rope, kv, batch);
      return;
    }
    launch_overlapping("norm_rope_append", any_kernel<decltype(type), true>, grid, {kHeads * kWarp}, 0, stream, q, k, v,
                       kv.head_dim, rope, kv, batch);
  });
}

}  // namespace bumblebee::cuda
