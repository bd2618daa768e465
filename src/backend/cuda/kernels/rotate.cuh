// A head's norm and rotation, and its place in the pages: one code for the kernels of rope.cu, so that they give the
// same bits. Of what most models have, whole norms and halves that turn from a head's first feature on, and of the
// rest.
#pragma once

#include "backend/cuda/kernels/pages.cuh"
#include "backend/cuda/kernels/rope.h"

namespace bumblebee::cuda {

/// The widest head that lanes keep in registers.
inline constexpr int kCommonHeadDim = 256;

/// What a lane has of a head of up to Most features: elements lane + 32·j of either half that is rotated, and of the
/// rest.
template <int Most = kCommonHeadDim>
struct HeadLane {
  static constexpr int kPairs = Most / 2 / kWarp, kRest = Most / kWarp;
  float a[kPairs], b[kPairs], rest[kRest];
};
/// f(at, which element) for all that exist.
template <int Most = kCommonHeadDim, class F>
__device__ __forceinline__ HeadLane<Most> head_lane(int dim, int half, int lane, F f) {
  HeadLane<Most> v = {};
#pragma unroll
  for (int j = 0; j < v.kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i < half) v.a[j] = f(i), v.b[j] = f(i + half);
  }
#pragma unroll
  for (int j = 0; j < v.kRest; ++j) {
    const int i = 2 * half + lane + j * kWarp;
    if (i < dim) v.rest[j] = f(i);
  }
  return v;
}

/// What does not depend on a head's values, and may be asked for before they are there.
template <int Most = kCommonHeadDim>
struct Rotation {
  float cosine[HeadLane<Most>::kPairs], sine[HeadLane<Most>::kPairs];
  HeadLane<Most> norm;  // where there is one
};
template <int Most = kCommonHeadDim>
__device__ inline Rotation<Most> rotation_of(const RopeArgs& rope, const float* norm, int dim, int position, int lane) {
  Rotation<Most> r = {};
  if (norm != nullptr) r.norm = head_lane<Most>(dim, rope.half, lane, [&](int i) { return __ldg(norm + i); });
#pragma unroll
  for (int j = 0; j < HeadLane<Most>::kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i >= rope.half) continue;
    sincosf(__fmul_rn(float(position), rope.inv_freq[i]), &r.sine[j], &r.cosine[j]);
    r.sine[j] *= rope.attention_factor;
    r.cosine[j] *= rope.attention_factor;
  }
  return r;
}

/// One head, normed and rotated, from memory, of which x is what a lane has, to `to` [dim]. What other kernels wrote is
/// read from L2: this one may have begun before them.
template <int Most>
__device__ inline void norm_rope_head(const HeadRows& heads, const float* head, HeadLane<Most> x, int dim, int half,
                                      const Rotation<Most>& r, int lane, float* to) {
  constexpr int kPairs = HeadLane<Most>::kPairs, kRest = HeadLane<Most>::kRest;
  if (heads.norm != nullptr) {
    // In the order of rms_norm over one head (rows.cu): a lane's elements upwards.
    float squares = 0;
    if (half % kWarp == 0) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) squares = fmaf(x.a[j], x.a[j], squares);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) squares = fmaf(x.b[j], x.b[j], squares);
#pragma unroll
      for (int j = 0; j < kRest; ++j) squares = fmaf(x.rest[j], x.rest[j], squares);
    } else {
      for (int i = lane; i < dim; i += kWarp) {
        const float v = __ldcg(head + i);
        squares = fmaf(v, v, squares);
      }
    }
    const float inverse = 1 / sqrtf(warp_sum(squares) / float(dim) + heads.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) x.a[j] = x.a[j] * inverse * r.norm.a[j], x.b[j] = x.b[j] * inverse * r.norm.b[j];
#pragma unroll
    for (int j = 0; j < kRest; ++j) x.rest[j] = x.rest[j] * inverse * r.norm.rest[j];
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i >= half) continue;
    to[i] = x.a[j] * r.cosine[j] - x.b[j] * r.sine[j];
    to[i + half] = x.b[j] * r.cosine[j] + x.a[j] * r.sine[j];
  }
#pragma unroll
  for (int j = 0; j < kRest; ++j) {
    const int i = 2 * half + lane + j * kWarp;
    if (i < dim) to[i] = x.rest[j];
  }
  __syncwarp();
}

__device__ inline void norm_rope_head(const HeadRows& heads, const float* head, int dim, int half, const Rotation<>& r,
                                      int lane, float* to) {
  const HeadLane<> x = head_lane(dim, half, lane, [&](int i) { return __ldcg(head + i); });
  norm_rope_head(heads, head, x, dim, half, r, lane, to);
}

/// RopeParams::query_factor.
__device__ inline float query_factor(const RopeArgs& rope, int position) {
  return float(1 + double(rope.query_growth) * log1p(double(position / rope.query_span)));
}

/// norm_rope_head for every norm and rotation there is, of heads as wide as shared memory has it. `factor`: what the
/// result is multiplied by, where queries grow.
__device__ inline void norm_rope_any(const HeadRows& heads, const float* head, int dim, const RopeArgs& rope,
                                     const float* inv_freq, int position, float factor, int lane, float* to) {
  for (int i = lane; i < dim; i += kWarp) to[i] = __ldcg(head + i);
  if (heads.norm != nullptr) {  // in the order of rms_norm over one head (rows.cu)
    float squares = 0;
    for (int i = lane; i < heads.normed; i += kWarp) squares = fmaf(to[i], to[i], squares);
    const float inverse = 1 / sqrtf(warp_sum(squares) / float(heads.normed) + heads.eps);
    for (int i = lane; i < heads.normed; i += kWarp) to[i] = to[i] * inverse * __ldg(heads.norm + i);
  }
  __syncwarp();
  for (int i = lane; i < rope.half; i += kWarp) {
    float sine, cosine;
    sincosf(__fmul_rn(float(position), __ldg(inv_freq + i)), &sine, &cosine);
    sine *= rope.attention_factor;
    cosine *= rope.attention_factor;
    const int a = rope.first + (rope.interleaved ? 2 * i : i), b = rope.interleaved ? a + 1 : a + rope.half;
    const float x = to[a], y = to[b];
    to[a] = x * cosine - y * sine;
    to[b] = y * cosine + x * sine;
  }
  __syncwarp();
  if (factor != 1)
    for (int i = lane; i < dim; i += kWarp) to[i] *= factor;
  __syncwarp();
}

/// Where a row's keys and values go; page null: nowhere.
struct KvPlace {
  const uint8_t* page = nullptr;
  int token = 0;
};
__device__ inline KvPlace place_of_row(const KvView& kv, const BatchView& batch, int row) {
  const int at = batch.cached[row];
  if (at < 0) return {};
  return {batch.pages[batch.first_page[row] + at / kv.page_size], at % kv.page_size};
}
template <class T, bool MayBeLatent = true>
__device__ inline void append(const KvView& kv, int which, int head, const KvPlace& place, const float* from,
                              int lane) {
  if (place.page == nullptr) return;
  store_head<T, MayBeLatent>(kv, from, const_cast<uint8_t*>(head_at(kv, place.page, which, head)), place.token, lane);
}
/// One head as it is, from L2 to `to` [dim], Most at most.
template <int Most>
__device__ inline void take_head(const float* head, int dim, int lane, float* to) {
#pragma unroll
  for (int j = 0; j < Most / kWarp; ++j) {
    const int i = lane + j * kWarp;
    if (i < dim) to[i] = __ldcg(head + i);
  }
  __syncwarp();
}

}  // namespace bumblebee::cuda
