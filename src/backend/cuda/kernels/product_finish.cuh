// The finishing warp of product.cuh: sums of classes become outputs. Sums stay as an MMA leaves them, lane 4g + t with
// rows g and g + 8 of the tile for rows t, t + 4, .. of x, all the way to the outputs.
#pragma once

#include "backend/cuda/kernels/product_copy.cuh"
#include "backend/cuda/kernels/product_lora.cuh"

namespace bumblebee::cuda {

template <int Tiles>
struct Sums {
  float v[Tiles][2];
};
/// Floats of one warp's sums in memory: [piece][lane]{2 or 4}.
template <int Tiles>
inline constexpr int kSumFloats = 64 * Tiles;

/// In shared memory, or in memory that other blocks read (L2).
template <int Tiles, bool Global>
__device__ __forceinline__ Sums<Tiles> load_sums(const float* from, uint32_t lane) {
  Sums<Tiles> s;
  if constexpr (Tiles == 1) {
    const float2* at = reinterpret_cast<const float2*>(from) + lane;
    const float2 v = Global ? __ldcg(at) : *at;
    s.v[0][0] = v.x, s.v[0][1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < Tiles / 2; ++i) {
      const float4* at = reinterpret_cast<const float4*>(from) + i * 32 + lane;
      const float4 v = Global ? __ldcg(at) : *at;
      s.v[2 * i][0] = v.x, s.v[2 * i][1] = v.y, s.v[2 * i + 1][0] = v.z, s.v[2 * i + 1][1] = v.w;
    }
  }
  return s;
}
template <int Tiles, bool Global>
__device__ __forceinline__ void store_sums(float* to, uint32_t lane, const Sums<Tiles>& s) {
  if constexpr (Tiles == 1) {
    float2* at = reinterpret_cast<float2*>(to) + lane;
    const float2 v = {s.v[0][0], s.v[0][1]};
    Global ? __stcg(at, v) : void(*at = v);
  } else {
#pragma unroll
    for (int i = 0; i < Tiles / 2; ++i) {
      float4* at = reinterpret_cast<float4*>(to) + i * 32 + lane;
      const float4 v = {s.v[2 * i][0], s.v[2 * i][1], s.v[2 * i + 1][0], s.v[2 * i + 1][1]};
      Global ? __stcg(at, v) : void(*at = v);
    }
  }
}
template <int Tiles>
__device__ __forceinline__ Sums<Tiles> operator+(const Sums<Tiles>& a, const Sums<Tiles>& b) {
  Sums<Tiles> s;
#pragma unroll
  for (int i = 0; i < Tiles; ++i) s.v[i][0] = a.v[i][0] + b.v[i][0], s.v[i][1] = a.v[i][1] + b.v[i][1];
  return s;
}
/// `count` (1, 2, 4 or 8) sums in shared memory that lie `apart` floats from each other, as a binary tree.
template <int Tiles>
__device__ __forceinline__ Sums<Tiles> tree_sum(const float* from, int apart, int count, uint32_t lane) {
  const auto one = [&](int i) { return load_sums<Tiles, false>(from + i * apart, lane); };
  const auto four = [&](int i) { return (one(i) + one(i + 1)) + (one(i + 2) + one(i + 3)); };
  if (count == 8) return four(0) + four(4);
  if (count == 4) return four(0);
  if (count == 2) return one(0) + one(1);
  return one(0);
}

/// Where the outputs of a tile go.
struct TileTarget {
  TileHalf half[2];
};
__device__ __forceinline__ TileTarget target_of(const ProductArgs& a, int tile) {
  return {{half_of_tile(a, tile, 0), half_of_tile(a, tile, 1)}};
}

/// What is added to a lane's outputs.
template <int Tiles>
__device__ __forceinline__ Sums<Tiles> load_residual(const ProductArgs& a, const TileTarget& target, uint32_t lane) {
  Sums<Tiles> s;
#pragma unroll
  for (int i = 0; i < Tiles; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const TileHalf& half = target.half[h];
      const int row = (i * 4 + int(lane % 4)) / (a.exact ? 2 : 1);
      s.v[i][h] = 0.0f;
      if (a.epilogue == ProductStage::Epilogue::add && row < a.rows && int(lane / 4) < half.left)
        s.v[i][h] = __ldcg(a.residual + row * a.term[half.term].stride + half.row + lane / 4);
    }
  return s;
}

/// A tile's outputs, from its sums over all inputs. Lora: `change` is what adapters add to the only row.
template <int Tiles, bool Lora = false>
__device__ __forceinline__ void write_outputs(const ProductArgs& a, const ProductSlot& of, const TileTarget& target,
                                              uint32_t lane, Sums<Tiles> s, const Sums<Tiles>& residual,
                                              float2 change = {}) {
  const bool pairs = a.epilogue == ProductStage::Epilogue::silu_mul;
  float bias[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const TileHalf& half = target.half[h];
    const float* of_term = a.term[half.term].bias;
    bias[h] = of_term != nullptr && int(lane / 4) < half.left ? __ldg(of_term + half.row + lane / 4) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < Tiles; ++i) {
    int row = i * 4 + int(lane % 4);
    if (a.exact) {  // rows of digits 2r and 2r + 1 are neighbours
      s.v[i][0] += __shfl_xor_sync(0xffffffffu, s.v[i][0], 1);
      s.v[i][1] += __shfl_xor_sync(0xffffffffu, s.v[i][1], 1);
      row = lane % 2 == 0 ? row / 2 : of.rows;
    }
    if (row >= of.rows) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const TileHalf& half = target.half[h];
      if (int(lane / 4) >= half.left || (pairs && h == 1)) continue;
      float v = s.v[i][h] + bias[h], other = s.v[i][1] + bias[1];
      if (Lora) v += h == 0 ? change.x : change.y, other += change.y;
      if (pairs)
        v = v / (1.0f + expf(-v)) * other;
      else
        v += residual.v[i][h];
      const StageWeight& term = a.term[half.term];
      __stcg(term.y + (of.first + row) * term.stride + half.row + lane / 4, v);
    }
  }
}

/// Sums of a section whose tile is shared with other blocks, for them to see: [unit][tile of it][section].
template <int Tiles>
__device__ __forceinline__ float* shared_sums(const ProductArgs& a, int unit, int tile) {
  return a.partials + (int64_t(unit) * (kConsumers >> a.width_bits) + tile) * a.sections * kSumFloats<Tiles>;
}

/// The last thing that blocks that share tiles do, all working warps of them: each finishes its share of the tiles when
/// all parts are there. A counter rises to the number of parts, then to twice that as blocks leave, and the last one
/// makes it zero again.
template <int Tiles>
__device__ __forceinline__ void collect_units(const ProductArgs& a, int part, int first_unit, int stride, int warp,
                                              uint32_t lane) {
  uint32_t* arrived = a.arrived + first_unit;
  barrier_sync<kWorkersBarrier>(kWorkingThreads);  // all sums of this block are published
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
  }
  wait_counter(arrived, uint32_t(a.parts));
  __syncwarp();
  const int tiles = kConsumers >> a.width_bits;
  int item = 0;
  for (int unit = first_unit; unit < a.units; unit += stride)
    for (int k = 0; k < tiles; ++k, ++item) {
      if (item % a.parts != part || item / a.parts % (kConsumers + 1) != warp) continue;
      const TileTarget target = target_of(a, unit * tiles + k);
      const Sums<Tiles> residual = load_residual<Tiles>(a, target, lane);
      const float* from = shared_sums<Tiles>(a, unit, k);
      Sums<Tiles> s = load_sums<Tiles, true>(from, lane);
      for (int i = 1; i < a.sections; ++i) s = s + load_sums<Tiles, true>(from + i * kSumFloats<Tiles>, lane);
      write_outputs<Tiles>(a, whole_stage(a), target, lane, s, residual);
    }
  barrier_sync<kWorkersBarrier>(kWorkingThreads);
  if (threadIdx.x == 0 && atomicAdd(arrived, 1u) + 1 == uint32_t(2 * a.parts)) *arrived = 0;
}

}  // namespace bumblebee::cuda
