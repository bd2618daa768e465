// Loads, conversions and reductions that all kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/cuda/kernels/float_codes.cuh"

namespace bumblebee::cuda {

inline constexpr int kWarp = 32;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

struct Int8 {
  int8_t value;
};
__device__ inline float to_float(Int8 x) { return float(x.value); }

/// Element i of an array whose type is known when it runs.
__device__ inline float load_element(const void* p, Element element, size_t i) {
  if (element == Element::bf16) return to_float(static_cast<const __nv_bfloat16*>(p)[i]);
  if (element == Element::f16) return to_float(static_cast<const __half*>(p)[i]);
  return static_cast<const float*>(p)[i];
}

/// Code i of a row of codes of `bits` bits, low bits first.
__device__ inline uint32_t load_code(const uint8_t* row, int bits, int i) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(row);
  const uint32_t at = uint32_t(i) * uint32_t(bits), word = at / 32, shift = at % 32;
  uint32_t value = words[word] >> shift;
  if (shift + uint32_t(bits) > 32) value |= words[word + 1] << (32 - shift);
  return value & ((1u << bits) - 1u);
}

/// W[row][i]: scale·q + bias, or a float code times the scale. Rows of a stack follow each other.
__device__ inline float load_weight(const WeightView& w, int row, int i) {
  const uint8_t* codes = w.codes + size_t(row) * w.row_bytes;
  if (w.bits == 0) return load_element(codes, w.scale, size_t(i));
  const size_t group = size_t(row) * size_t(w.scale_row) + size_t(i / w.group);
  if (w.code != Code::uint) {
    float scale = load_element(w.scales, w.scale, group);
    if (w.factors != nullptr) scale *= w.factors[row / w.out];
    return float_code(w.code, load_code(codes, w.bits, i)) * scale;
  }
  return fmaf(load_element(w.scales, w.scale, group), float(load_code(codes, w.bits, i)),
              load_element(w.biases, w.bias, group));
}

/// What a slot does to a module; null: nothing.
__device__ inline const SiteView* site_of(const SlotTableView& table, int slot, int site) {
  if (slot < 0 || slot >= table.count) return nullptr;
  const SlotView& view = table.slots[slot];
  if (site < 0 || site >= view.count || view.sites[site].present == 0) return nullptr;
  return &view.sites[site];
}
__device__ inline const SiteView* site_of(const BatchView& batch, int row, int site) {
  return site_of(*batch.slots, batch.slot[row], site);
}

__device__ inline float silu_times(float gate, float up) { return gate / (1 + expf(-gate)) * up; }

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

/// The sum over a block of at most 32 full warps, in every thread. `scratch` [32] is free again after a barrier.
__device__ inline float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  return sum;
}

}  // namespace bumblebee::cuda
