// A warp has one head of one row: four groups of eight lanes take a token each, a lane an eighth of the head. A past is
// always summed in kSplits strands of pages (strand s has pages s, s + kSplits, ...) and the strands in order, whether
// one warp does them all or each has a block of its own: so a row's bits are the same in any batch.
#include "backend/cuda/kernels/attend.h"

#include <cmath>

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"

namespace bumblebee::cuda {
namespace {

constexpr int kSplits = 16;     // strands
constexpr int kSplitRows = 32;  // with more rows than that there is work enough without splitting
constexpr int kLanes = 8;       // lanes of one token
constexpr int kGroups = kWarp / kLanes;

__device__ inline void store(float x, float* to) { *to = x; }
__device__ inline void store(float x, __half* to) { *to = __float2half_rn(x); }
__device__ inline void store(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

/// Start of one head's keys (which 0) or values (1).
__device__ inline const uint8_t* head_at(const KvView& kv, const uint8_t* page, int layer, int which, int head) {
  return page + size_t((layer * 2 + which) * kv.kv_heads + head) * kv.head_bytes;
}

template <class T>
__global__ void append_kernel(AttendArgs a, BatchView batch) {
  const int row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int at = batch.cached[row], dim = a.kv.head_dim;
  if (at < 0) return;
  const uint8_t* page = batch.pages[batch.first_page[row] + at / a.kv.page_size];
  const int token = at % a.kv.page_size;
  for (int h = warp; h < 2 * a.kv.kv_heads; h += int(blockDim.x) / kWarp) {
    const int which = h / a.kv.kv_heads, head = h % a.kv.kv_heads;
    const float* from = (which == 0 ? a.k : a.v) + (size_t(row) * size_t(a.kv.kv_heads) + size_t(head)) * size_t(dim);
    uint8_t* to = const_cast<uint8_t*>(head_at(a.kv, page, a.layer, which, head));
    if constexpr (sizeof(T) == 1) {
      float most = 0;
      for (int i = lane; i < dim; i += kWarp) most = fmaxf(most, fabsf(from[i]));
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
      const float step = most / 127, inverse = most > 0 ? 127 / most : 0;
      for (int i = lane; i < dim; i += kWarp)
        reinterpret_cast<int8_t*>(to)[token * dim + i] = int8_t(fmaxf(-127, fminf(127, rintf(from[i] * inverse))));
      if (lane == 0) reinterpret_cast<float*>(to + a.kv.scales_at)[token] = step;
    } else {
      for (int i = lane; i < dim; i += kWarp) store(from[i], reinterpret_cast<T*>(to) + token * dim + i);
    }
  }
}

/// A softmax that is not finished: the largest score, Σ exp(score - largest), and Σ of that times v.
template <int E>
struct Partial {
  float largest = -INFINITY, total = 0, out[E] = {};

  __device__ void add(float largest2, float total2, const float* out2) {
    if (total2 == 0) return;  // nothing was seen; NaN goes on
    const float most = fmaxf(largest, largest2);
    const float mine = expf(largest - most), other = expf(largest2 - most);
    total = total * mine + total2 * other;
#pragma unroll
    for (int e = 0; e < E; ++e) out[e] = out[e] * mine + out2[e] * other;
    largest = most;
  }
};

/// E elements of one token's key or value from `first`, of `dim`.
template <class T, int E>
__device__ inline void load_head(const T* head, int first, int dim, float* values) {
  constexpr int kBytes = E * int(sizeof(T));
  if (dim == E * kLanes && kBytes % 16 == 0) {
    alignas(16) T packed[E];
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i)
      reinterpret_cast<uint4*>(packed)[i] = reinterpret_cast<const uint4*>(head + first)[i];
#pragma unroll
    for (int e = 0; e < E; ++e) values[e] = to_float(packed[e]);
  } else {
#pragma unroll
    for (int e = 0; e < E; ++e) values[e] = first + e < dim ? to_float(head[first + e]) : 0.0f;
  }
}

/// One strand of one head; the same in all lanes of a token but `out`, of which each has its E elements.
template <class T, int E>
__device__ Partial<E> strand_of(const AttendArgs& a, const BatchView& batch, int row, int head, int strand,
                                const float* q) {
  const int lane = int(threadIdx.x) % kWarp, group = lane / kLanes, first = lane % kLanes * E;
  const int last = batch.cached[row], dim = a.kv.head_dim, page_size = a.kv.page_size;
  const int begin = a.window > 0 ? max(0, last - a.window + 1) : 0;
  const uint8_t* const* pages = batch.pages + batch.first_page[row];
  const int kv_head = head * a.kv.kv_heads / a.heads;
  Partial<E> mine;
  for (int p = strand; p * page_size <= last; p += kSplits) {
    if ((p + 1) * page_size <= begin) continue;
    const uint8_t* keys = head_at(a.kv, pages[p], a.layer, 0, kv_head);
    const uint8_t* values = head_at(a.kv, pages[p], a.layer, 1, kv_head);
    const int from = max(begin - p * page_size, 0), to = min(last - p * page_size + 1, page_size);
    // All lanes stay together for the shuffles; tokens that are not seen weigh nothing.
    for (int t0 = from / kGroups * kGroups; t0 < to; t0 += kGroups) {
      const int t = t0 + group;
      const bool seen = t >= from && t < to;
      float k[E], dot = 0;
      if (seen) {
        load_head<T, E>(reinterpret_cast<const T*>(keys) + t * dim, first, dim, k);
#pragma unroll
        for (int e = 0; e < E; ++e) dot = fmaf(q[e], k[e], dot);
      }
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, offset);
      if (!seen) continue;
      float v[E];
      load_head<T, E>(reinterpret_cast<const T*>(values) + t * dim, first, dim, v);
      float score = dot * a.scale, step = 1;
      if constexpr (sizeof(T) == 1) {
        score *= reinterpret_cast<const float*>(keys + a.kv.scales_at)[t];
        step = reinterpret_cast<const float*>(values + a.kv.scales_at)[t];
      }
      const float most = fmaxf(mine.largest, score);
      const float shrink = expf(mine.largest - most), weight = expf(score - most);
      mine.largest = most;
      mine.total = mine.total * shrink + weight;
#pragma unroll
      for (int e = 0; e < E; ++e) mine.out[e] = mine.out[e] * shrink + weight * step * v[e];
    }
    __syncwarp();
  }
  // The groups in a fixed order, each lane with the other lane that has its elements.
  Partial<E> all;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int source = g * kLanes + lane % kLanes;
    float out[E];
    const float largest = __shfl_sync(0xffffffffu, mine.largest, source);
    const float total = __shfl_sync(0xffffffffu, mine.total, source);
#pragma unroll
    for (int e = 0; e < E; ++e) out[e] = __shfl_sync(0xffffffffu, mine.out[e], source);
    all.add(largest, total, out);
  }
  return all;
}

/// Grid: rows, kv heads, strands (1: every warp does them all). A warp for each query head of the kv head. Partials
/// [rows, heads, strands, 2 + head_dim].
template <class T, int E>
__global__ void attend_kernel(AttendArgs a, BatchView batch, float* partials) {
  const int row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp, first = lane % kLanes * E, dim = a.kv.head_dim;
  const int per_kv = a.heads / a.kv.kv_heads;
  const size_t width = size_t(2 + dim);
  for (int h = int(threadIdx.x) / kWarp; h < per_kv; h += int(blockDim.x) / kWarp) {
    const int head = int(blockIdx.y) * per_kv + h;
    const size_t index = size_t(row) * size_t(a.heads) + size_t(head);
    float q[E];
#pragma unroll
    for (int e = 0; e < E; ++e) q[e] = first + e < dim ? a.q[index * size_t(dim) + size_t(first + e)] : 0.0f;
    if (gridDim.z > 1) {
      const Partial<E> part = strand_of<T, E>(a, batch, row, head, int(blockIdx.z), q);
      float* to = partials + (index * kSplits + blockIdx.z) * width;
      if (lane >= kLanes) continue;
      if (lane == 0) to[0] = part.largest, to[1] = part.total;
      for (int e = 0; e < E; ++e) {
        if (first + e < dim) to[2 + first + e] = part.out[e];
      }
      continue;
    }
    Partial<E> all;
    for (int s = 0; s < kSplits; ++s) {
      const Partial<E> part = strand_of<T, E>(a, batch, row, head, s, q);
      all.add(part.largest, part.total, part.out);
    }
    if (lane >= kLanes) continue;
    for (int e = 0; e < E; ++e) {
      if (first + e < dim)
        a.out[index * size_t(dim) + size_t(first + e)] = all.total != 0 ? all.out[e] / all.total : 0.0f;
    }
  }
}

/// Joins the strands of one head, in order. The same arithmetic as above, element by element.
__global__ void join_kernel(const float* partials, float* out, int dim) {
  const size_t index = blockIdx.x, width = size_t(2 + dim);
  const float* from = partials + index * kSplits * width;
  for (int i = int(threadIdx.x); i < dim; i += int(blockDim.x)) {
    Partial<1> all;
    for (int s = 0; s < kSplits; ++s) all.add(from[s * width], from[s * width + 1], from + s * width + 2 + i);
    out[index * size_t(dim) + size_t(i)] = all.total != 0 ? all.out[0] / all.total : 0.0f;
  }
}

template <class T, int E>
void run(const AttendArgs& a, const BatchView& batch, float* partials, cudaStream_t stream) {
  const int per_kv = a.heads / a.kv.kv_heads, warps = per_kv < 8 ? per_kv : 8;
  const unsigned splits = partials != nullptr ? kSplits : 1;
  launch("attend", attend_kernel<T, E>, {unsigned(batch.rows), unsigned(a.kv.kv_heads), splits},
         {unsigned(warps * kWarp)}, 0, stream, a, batch, partials);
  if (partials == nullptr) return;
  launch("attend_join", join_kernel, {unsigned(batch.rows * a.heads)}, {128}, 0, stream, partials, a.out,
         a.kv.head_dim);
}

template <class T>
void run(const AttendArgs& a, const BatchView& batch, float* partials, cudaStream_t stream) {
  if (a.kv.head_dim <= 64) return run<T, 8>(a, batch, partials, stream);
  if (a.kv.head_dim <= 128) return run<T, 16>(a, batch, partials, stream);
  run<T, 32>(a, batch, partials, stream);
}

}  // namespace

void append_kv(const AttendArgs& a, const BatchView& batch, cudaStream_t stream) {
  const dim3 grid = {unsigned(batch.rows)}, block = {128};
  switch (a.kv.element) {
    case Element::f32: return launch("append_kv", append_kernel<float>, grid, block, 0, stream, a, batch);
    case Element::f16: return launch("append_kv", append_kernel<__half>, grid, block, 0, stream, a, batch);
    case Element::bf16: return launch("append_kv", append_kernel<__nv_bfloat16>, grid, block, 0, stream, a, batch);
    case Element::i8: return launch("append_kv", append_kernel<Int8>, grid, block, 0, stream, a, batch);
  }
}

size_t attend_workspace(int rows, int heads, int head_dim) {
  return rows > kSplitRows ? 0 : size_t(rows) * size_t(heads) * kSplits * size_t(2 + head_dim) * sizeof(float);
}

void attend(const AttendArgs& a, const BatchView& batch, void* workspace, cudaStream_t stream) {
  float* partials = static_cast<float*>(workspace);
  switch (a.kv.element) {
    case Element::f32: return run<float>(a, batch, partials, stream);
    case Element::f16: return run<__half>(a, batch, partials, stream);
    case Element::bf16: return run<__nv_bfloat16>(a, batch, partials, stream);
    case Element::i8: return run<Int8>(a, batch, partials, stream);
  }
}

}  // namespace bumblebee::cuda
