// Σ x² of a row and what follows from it, in one order for all who norm rows: a product that does it by itself, the
// kernel that only rounds, and the operation. So a row has the same bits whoever normed it.
#pragma once

#include <cstdint>

namespace bumblebee::cuda {

/// Threads of a block that share a row: thread t has octets t, t + 256, ...
inline constexpr int kRoundThreads = 256;

struct Eight {
  float v[8];
};
/// From L2: another block wrote them while this one was already running.
__device__ __forceinline__ Eight load_eight(const float* from) {
  const float4 a = __ldcg(reinterpret_cast<const float4*>(from)), b = __ldcg(reinterpret_cast<const float4*>(from) + 1);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ void store_eight(float* to, const Eight& x) {
  __stcg(reinterpret_cast<float4*>(to), float4{x.v[0], x.v[1], x.v[2], x.v[3]});
  __stcg(reinterpret_cast<float4*>(to) + 1, float4{x.v[4], x.v[5], x.v[6], x.v[7]});
}
__device__ __forceinline__ float sum_squares(const Eight& x, float sum) {
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(x.v[i], x.v[i], sum);
  return sum;
}

__device__ __forceinline__ Eight scaled(Eight x, const float* norm, float inverse, int at) {
  if (norm == nullptr) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] *= inverse;
    return x;
  }
  const float4 a = __ldg(reinterpret_cast<const float4*>(norm + at)),
               b = __ldg(reinterpret_cast<const float4*>(norm + at) + 1);
  const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) x.v[i] = x.v[i] * inverse * w[i];
  return x;
}

/// A thread's share of Σ x², over the block's warps; every thread of the block gets there, only some work.
__device__ __forceinline__ void store_sum(float sum, float* scratch) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
}
__device__ __forceinline__ float inverse_rms(const float* scratch, int in, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kRoundThreads / 32; ++i) sum += scratch[i];
  return rsqrtf(sum / float(in) + eps);
}

}  // namespace bumblebee::cuda
