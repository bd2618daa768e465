// Where keys and values lie in their pages, and how a head is rounded to the cache's type.
#pragma once

#include "backend/cuda/kernels/device.cuh"

namespace bumblebee::cuda {

/// Start of one head's keys (which 0) or values (1).
__device__ inline const uint8_t* head_at(const KvView& kv, const uint8_t* page, int layer, int which, int head) {
  return page + size_t((layer * 2 + which) * kv.kv_heads + head) * kv.head_bytes;
}

__device__ inline void store(float x, float* to) { *to = x; }
__device__ inline void store(float x, __half* to) { *to = __float2half_rn(x); }
__device__ inline void store(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

/// A warp writes one head of one token; `from` [head_dim] may be anywhere.
template <class T>
__device__ inline void store_head(const KvView& kv, const float* from, uint8_t* to, int token, int lane) {
  const int dim = kv.head_dim;
  if constexpr (sizeof(T) == 1) {
    float most = 0;
    for (int i = lane; i < dim; i += kWarp) most = fmaxf(most, fabsf(from[i]));
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
    const float step = most / 127, inverse = most > 0 ? 127 / most : 0;
    for (int i = lane; i < dim; i += kWarp)
      reinterpret_cast<int8_t*>(to)[token * dim + i] = int8_t(fmaxf(-127, fminf(127, rintf(from[i] * inverse))));
    if (lane == 0) reinterpret_cast<float*>(to + kv.scales_at)[token] = step;
  } else {
    for (int i = lane; i < dim; i += kWarp) store(from[i], reinterpret_cast<T*>(to) + token * dim + i);
  }
}

}  // namespace bumblebee::cuda
