// Where keys and values lie in their pages, and how a head is rounded to the cache's type.
#pragma once

#include "backend/cuda/kernels/device.cuh"

namespace bumblebee::cuda {

/// Start of one head's keys (which 0) or values (1).
__device__ inline const uint8_t* head_at(const KvView& kv, const uint8_t* page, int which, int head) {
  return page + kv.layer_at + size_t(which * kv.kv_heads + head) * kv.head_bytes;
}

__device__ inline void store(float x, float* to) { *to = x; }
__device__ inline void store(float x, __half* to) { *to = __float2half_rn(x); }
__device__ inline void store(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

/// A warp writes features [begin, end) of one token with a scale of their own.
__device__ inline void store_codes(const KvView& kv, const float* from, uint8_t* to, int token, int lane, int begin,
                                   int end, int scale) {
  float most = 0;
  for (int i = begin + lane; i < end; i += kWarp) most = fmaxf(most, fabsf(from[i]));
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  const float step = most / 127, inverse = most > 0 ? 127 / most : 0;
  for (int i = begin + lane; i < end; i += kWarp)
    reinterpret_cast<int8_t*>(to)[token * kv.head_dim + i] = int8_t(fmaxf(-127, fminf(127, rintf(from[i] * inverse))));
  if (lane == 0) reinterpret_cast<float*>(to + kv.scales_at)[scale * kv.page_size + token] = step;
}

/// A warp writes one head of one token; `from` [head_dim] may be anywhere. `MayBeLatent`: keys may have values within.
template <class T, bool MayBeLatent>
__device__ inline void store_head(const KvView& kv, const float* from, uint8_t* to, int token, int lane) {
  const int dim = kv.head_dim;
  if constexpr (sizeof(T) == 1) {
    store_codes(kv, from, to, token, lane, 0, MayBeLatent ? kv.values() : dim, 0);
    if (MayBeLatent && kv.value_dim > 0) store_codes(kv, from, to, token, lane, kv.value_dim, dim, 1);
  } else {
    for (int i = lane; i < dim; i += kWarp) store(from[i], reinterpret_cast<T*>(to) + token * dim + i);
  }
}

}  // namespace bumblebee::cuda
