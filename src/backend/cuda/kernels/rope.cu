// A warp for each head.
#include "backend/cuda/kernels/rope.h"

#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/pages.cuh"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kHeads = 4;  // of a block

constexpr int kPairs = kMaxHeadDim / 2 / kWarp, kRest = kMaxHeadDim / kWarp;  // of a lane at most

/// What a lane needs of a head that does not depend on its values.
struct Rotation {
  float cosine[kPairs], sine[kPairs];
};
__device__ inline Rotation rotation_of(const RopeArgs& rope, int position, int lane) {
  Rotation r = {};
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i >= rope.half) continue;
    sincosf(__fmul_rn(float(position), rope.inv_freq[i]), &r.sine[j], &r.cosine[j]);
    r.sine[j] *= rope.attention_factor;
    r.cosine[j] *= rope.attention_factor;
  }
  return r;
}

/// One head, normed and rotated, from memory to `to` [dim]. What other kernels wrote is read from L2: this one may have
/// begun before them.
__device__ inline void norm_rope_head(const HeadRows& heads, const float* head, int dim, int half, const Rotation& r,
                                      int lane, float* to) {
  const float* w = heads.norm;
  float a[kPairs] = {}, b[kPairs] = {}, rest[kRest] = {}, squares = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i < half) a[j] = __ldcg(head + i), b[j] = __ldcg(head + i + half);
  }
#pragma unroll
  for (int j = 0; j < kRest; ++j) {
    const int i = 2 * half + lane + j * kWarp;
    if (i < dim) rest[j] = __ldcg(head + i);
  }
  if (w != nullptr) {
    // In the order of rms_norm over one head (rows.cu): a lane's elements upwards.
    if (half % kWarp == 0) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) squares = fmaf(a[j], a[j], squares);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) squares = fmaf(b[j], b[j], squares);
#pragma unroll
      for (int j = 0; j < kRest; ++j) squares = fmaf(rest[j], rest[j], squares);
    } else {
      for (int i = lane; i < dim; i += kWarp) {
        const float x = __ldcg(head + i);
        squares = fmaf(x, x, squares);
      }
    }
    const float inverse = 1 / sqrtf(warp_sum(squares) / float(dim) + heads.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + j * kWarp;
      if (i < half) a[j] = a[j] * inverse * __ldg(w + i), b[j] = b[j] * inverse * __ldg(w + i + half);
    }
#pragma unroll
    for (int j = 0; j < kRest; ++j) {
      const int i = 2 * half + lane + j * kWarp;
      if (i < dim) rest[j] = rest[j] * inverse * __ldg(w + i);
    }
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i >= half) continue;
    to[i] = a[j] * r.cosine[j] - b[j] * r.sine[j];
    to[i + half] = b[j] * r.cosine[j] + a[j] * r.sine[j];
  }
#pragma unroll
  for (int j = 0; j < kRest; ++j) {
    const int i = 2 * half + lane + j * kWarp;
    if (i < dim) to[i] = rest[j];
  }
  __syncwarp();
}

struct Warp {
  int lane, row, head;
  float* scratch;
};
__device__ inline Warp this_warp(float (&scratch)[kHeads][kMaxHeadDim], int heads) {
  const int warp = int(threadIdx.x) / kWarp, index = int(blockIdx.x) * kHeads + warp;
  return {int(threadIdx.x) % kWarp, index / heads, index % heads, scratch[warp]};
}

/// Heads of q, then of k.
__device__ inline void rotate(const Warp& at, const HeadRows& q, const HeadRows& k, int dim, int half,
                              const Rotation& rotation) {
  const HeadRows& heads = at.head < q.heads ? q : k;
  const int number = at.head < q.heads ? at.head : at.head - q.heads;
  float* x = heads.x + (size_t(at.row) * size_t(heads.heads) + size_t(number)) * size_t(dim);
  norm_rope_head(heads, x, dim, half, rotation, at.lane, at.scratch);
  for (int i = at.lane; i < dim; i += kWarp) __stcg(x + i, at.scratch[i]);
}

/// Where a row's keys and values go; page null: nowhere.
struct KvPlace {
  const uint8_t* page = nullptr;
  int token = 0;
};
__device__ inline KvPlace place_of(const KvView& kv, const BatchView& batch, int row) {
  const int at = batch.cached[row];
  if (at < 0) return {};
  return {batch.pages[batch.first_page[row] + at / kv.page_size], at % kv.page_size};
}
template <class T>
__device__ inline void append(const KvView& kv, int layer, int which, int head, const KvPlace& place, const float* from,
                              int lane) {
  if (place.page == nullptr) return;
  store_head<T>(kv, from, const_cast<uint8_t*>(head_at(kv, place.page, layer, which, head)), place.token, lane);
}

__global__ void norm_rope_kernel(HeadRows q, HeadRows k, int dim, RopeArgs rope, BatchView batch) {
  __shared__ float scratch[kHeads][kMaxHeadDim];
  launch_dependents();
  const Warp at = this_warp(scratch, q.heads + k.heads);
  const bool there = at.row < batch.rows;
  const Rotation rotation = rotation_of(rope, there ? batch.positions[at.row] : 0, at.lane);
  wait_for_inputs();
  if (there) rotate(at, q, k, dim, rope.half, rotation);
}

template <class T>
__global__ void append_kernel(KvView kv, int layer, const float* k, const float* v, BatchView batch) {
  const int row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp;
  const KvPlace place = place_of(kv, batch, row);
  for (int h = int(threadIdx.x) / kWarp; h < 2 * kv.kv_heads; h += int(blockDim.x) / kWarp) {
    const int which = h / kv.kv_heads, head = h % kv.kv_heads;
    const float* from = (which == 0 ? k : v) + (size_t(row) * size_t(kv.kv_heads) + size_t(head)) * size_t(kv.head_dim);
    append<T>(kv, layer, which, head, place, from, lane);
  }
}

template <class T>
__global__ void norm_rope_append_kernel(HeadRows q, HeadRows k, const float* v, RopeArgs rope, KvView kv, int layer,
                                        BatchView batch) {
  __shared__ float scratch[kHeads][kMaxHeadDim];
  launch_dependents();
  const int dim = kv.head_dim, rotated = q.heads + k.heads;
  const Warp at = this_warp(scratch, rotated + kv.kv_heads);
  const bool there = at.row < batch.rows;
  Rotation rotation;
  KvPlace place;
  if (there) {
    if (at.head < rotated) rotation = rotation_of(rope, batch.positions[at.row], at.lane);
    if (at.head >= q.heads) place = place_of(kv, batch, at.row);
  }
  wait_for_inputs();
  if (!there) return;
  if (at.head < rotated) {
    rotate(at, q, k, dim, rope.half, rotation);
    if (at.head >= q.heads) append<T>(kv, layer, 0, at.head - q.heads, place, at.scratch, at.lane);
    return;
  }
  const int head = at.head - rotated;
  const float* from = v + (size_t(at.row) * size_t(kv.kv_heads) + size_t(head)) * size_t(dim);
#pragma unroll
  for (int j = 0; j < kRest; ++j) {
    const int i = at.lane + j * kWarp;
    if (i < dim) at.scratch[i] = __ldcg(from + i);
  }
  __syncwarp();
  append<T>(kv, layer, 1, head, place, at.scratch, at.lane);
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

void norm_rope(const HeadRows& q, const HeadRows& k, int head_dim, const RopeArgs& rope, const BatchView& batch,
               cudaStream_t stream) {
  launch_overlapping("norm_rope", norm_rope_kernel, blocks(batch.rows, q.heads + k.heads), {kHeads * kWarp}, 0, stream,
                     q, k, head_dim, rope, batch);
}

void append_kv(const KvView& kv, int layer, const float* k, const float* v, const BatchView& batch,
               cudaStream_t stream) {
  with_type(kv.element, [&](auto type) {
    launch("append_kv", append_kernel<decltype(type)>, {unsigned(batch.rows)}, {128}, 0, stream, kv, layer, k, v,
           batch);
  });
}

void norm_rope_append(const HeadRows& q, const HeadRows& k, const float* v, const RopeArgs& rope, const KvView& kv,
                      int layer, const BatchView& batch, cudaStream_t stream) {
  with_type(kv.element, [&](auto type) {
    launch_overlapping("norm_rope_append", norm_rope_append_kernel<decltype(type)>,
                       blocks(batch.rows, q.heads + k.heads + kv.kv_heads), {kHeads * kWarp}, 0, stream, q, k, v, rope,
                       kv, layer, batch);
  });
}

}  // namespace bumblebee::cuda
