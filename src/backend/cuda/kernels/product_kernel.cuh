// The kernel itself; each width of codes is compiled in a file of its own (product_*bit.cu).
#pragma once

#include "backend/cuda/kernels/product_finish.cuh"
#include "backend/cuda/kernels/product_multiply.cuh"
#include "backend/cuda/kernels/product_round.cuh"

namespace bumblebee::cuda {

/// Until the oldest of `depth` groups of copies is there.
__device__ __forceinline__ void wait_for_oldest(int depth) {
  if (depth >= 4) {
    if (depth == 4) return copy_async_wait<3>();
    if (depth == 5) return copy_async_wait<4>();
    return copy_async_wait<kMostDepth - 1>();
  }
  if (depth == 3) return copy_async_wait<2>();
  return copy_async_wait<1>();
}

/// x of a part of the inputs, as digits in shared memory.
__device__ __forceinline__ void take_input(const ProductArgs& a, int part, const SharedPlan& plan, uint8_t* shared) {
  const int first = first_stage(a.in, part * a.width) * (kStageInputs / 32);
  const int blocks = blocks_of_part(a.in, a.classes, a.width, part);
  if (a.input.kind != StageInput::Kind::digits) {
    const RoundTarget to = {shared + plan.digits, reinterpret_cast<StepGroup*>(shared + plan.steps), a.columns, first};
    round_rows({a.input, a.in, a.rows, 0, a.exact != 0, blocks}, to, reinterpret_cast<float*>(shared + plan.partials));
    return;
  }
  const int digits = blocks * a.columns * 2, steps = blocks / 2 * (a.columns / 2);  // of 16 bytes
  const uint4* from = reinterpret_cast<const uint4*>(a.input.rounded.digits) + int64_t(first) * a.columns * 2;
  uint4* to = reinterpret_cast<uint4*>(shared + plan.digits);
#pragma unroll 8
  for (int i = int(threadIdx.x); i < digits; i += kBlockThreads) to[i] = __ldcg(from + i);
  from = static_cast<const uint4*>(a.input.rounded.steps) + int64_t(first) / 2 * (a.columns / 2);
  to = reinterpret_cast<uint4*>(shared + plan.steps);
#pragma unroll 4
  for (int i = int(threadIdx.x); i < steps; i += kBlockThreads) to[i] = __ldcg(from + i);
}

/// Two buffers of partial sums go back and forth between the warps that multiply and the one that finishes.
__device__ __forceinline__ void wait_full(int buffer) {
  if (buffer == 0)
    barrier_sync<1>(kBlockThreads);
  else
    barrier_sync<2>(kBlockThreads);
}
__device__ __forceinline__ void say_full(int buffer) {
  if (buffer == 0)
    barrier_arrive<1>(kBlockThreads);
  else
    barrier_arrive<2>(kBlockThreads);
}
__device__ __forceinline__ void wait_empty(int buffer) {
  if (buffer == 0)
    barrier_sync<3>(kBlockThreads);
  else
    barrier_sync<4>(kBlockThreads);
}
__device__ __forceinline__ void say_empty(int buffer) {
  if (buffer == 0)
    barrier_arrive<3>(kBlockThreads);
  else
    barrier_arrive<4>(kBlockThreads);
}

/// All of the ninth warp's work after x is there.
template <int Tiles>
__device__ __forceinline__ void finish(const ProductArgs& a, int part, int first_unit, int stride,
                                       const float* partials, uint32_t lane) {
  const int tiles = kConsumers / a.width;
  int published = -1;
  for (int unit = first_unit, n = 0; unit < a.units; unit += stride, ++n) {
    const float* buffer = partials + (n % 2) * kConsumers * kSumFloats<Tiles>;
    if (a.parts == 1) {
      TileTarget target = target_of(a, unit * tiles);
      Sums<Tiles> residual = load_residual<Tiles>(a, target, lane);  // asked for before the sums are there
      wait_full(n % 2);
      for (int k = 0;;) {
        const Sums<Tiles> s =
            tree_sum<Tiles, false>(buffer + k * a.width * kSumFloats<Tiles>, kSumFloats<Tiles>, a.width, lane);
        write_outputs<Tiles>(a, target, lane, s, residual);
        if (++k == tiles) break;
        target = target_of(a, unit * tiles + k);
        residual = load_residual<Tiles>(a, target, lane);
      }
    } else {
      wait_full(n % 2);
      publish_unit<Tiles>(a, unit, part, buffer, lane);
      if (published >= 0) collect_unit<Tiles>(a, published, part, lane);  // by now the other parts are there too
      published = unit;
    }
    __syncwarp();
    if (unit + 2 * stride < a.units) say_empty(n % 2);
  }
  if (published >= 0) collect_unit<Tiles>(a, published, part, lane);
}

template <int Bits, int Group, int Tiles>
__global__ void __launch_bounds__(kBlockThreads, Tiles > 4 ? 1 : 2)
    product_kernel(const __grid_constant__ ProductArgs a, const SharedPlan plan) {
  extern __shared__ __align__(128) uint8_t shared[];
  launch_dependents();
  const int warp = int(threadIdx.x / 32);
  const uint32_t lane = threadIdx.x % 32;
  const int part = int(blockIdx.x) % a.parts, first_unit = int(blockIdx.x) / a.parts;
  const int stride = int(gridDim.x) / a.parts;
  float* partials = reinterpret_cast<float*>(shared + plan.partials);

  const int tiles = kConsumers / a.width, own_tile = warp / a.width, index = part * a.width + warp % a.width;
  const int begin = first_stage(a.in, index), end = first_stage(a.in, index + 1);
  const uint8_t* ring = shared + warp * a.depth * a.slot_bytes;
  int next_unit = first_unit, next_stage = begin;  // what will be asked for
  TileSource source = open_tile(a, next_unit * tiles + own_tile, lane);
  const auto ask = [&](const uint8_t* slot) {
    if (next_unit < a.units) {
      copy_stage<Bits>(a, source, next_stage, shared_address(slot), lane);
      if (++next_stage == end) {
        next_stage = begin;
        next_unit += stride;
        source = open_tile(a, next_unit * tiles + own_tile, lane);
      }
    }
    copy_async_commit();
  };
  if (warp < kConsumers) {
#pragma unroll 1
    for (int i = 0; i < a.depth; ++i) ask(ring + i * a.slot_bytes);
  }
  wait_for_inputs();
  take_input(a, part, plan, shared);
  __syncthreads();
  if (warp == kConsumers) return finish<Tiles>(a, part, first_unit, stride, partials, lane);

  const int columns = Tiles == 1 ? a.columns : Tiles * 8;  // known, where there are many
  const int block_bytes = columns * 32, group_bytes = columns / 2 * int(sizeof(StepGroup));
  const int column = min(int(lane / 4), columns - 1), row = min(int(lane % 4), columns / 2 - 1);
  const int behind = begin - first_stage(a.in, part * a.width);  // stages of this part before this class
  const InputView start = {shared + plan.digits + behind * 8 * block_bytes + column * 32 + int(lane % 4 * 8),
                           shared + plan.steps + behind * 4 * group_bytes + row * int(sizeof(StepGroup)), block_bytes,
                           group_bytes};
  float* scales = reinterpret_cast<float*>(shared + plan.scales) + warp * kScaleFloats<Group>;
  const uint8_t *slot = ring, *ring_end = ring + a.depth * a.slot_bytes;
  for (int unit = first_unit, n = 0; unit < a.units; unit += stride, ++n) {
    Sums<Tiles> sums = {};
    InputView x = start;
#pragma unroll 1
    for (int stage = begin; stage < end; ++stage) {
      wait_for_oldest(a.depth);
      widen_scales<Group>(a, slot + kTileRows * stage_pitch(Bits), scales, lane);
      __syncwarp();
      multiply_stage<Bits, Group, Tiles>(slot, scales, x, lane, sums.v);
      __syncwarp();
      ask(slot);
      slot += a.slot_bytes;
      if (slot == ring_end) slot = ring;
      x.digits += 8 * block_bytes;
      x.steps += 4 * group_bytes;
    }
    if (n >= 2) wait_empty(n % 2);
    store_sums<Tiles, false>(partials + ((n % 2) * kConsumers + warp) * kSumFloats<Tiles>, lane, sums);
    __syncwarp();
    say_full(n % 2);
  }
}

using ProductKernel = void (*)(ProductArgs, SharedPlan);

template <int Bits>
ProductKernel product_kernel_of(int group, int tiles) {
  if (group == 32)
    return tiles == 1   ? product_kernel<Bits, 32, 1>
           : tiles == 2 ? product_kernel<Bits, 32, 2>
           : tiles == 4 ? product_kernel<Bits, 32, 4>
                        : product_kernel<Bits, 32, 8>;
  return tiles == 1   ? product_kernel<Bits, 64, 1>
         : tiles == 2 ? product_kernel<Bits, 64, 2>
         : tiles == 4 ? product_kernel<Bits, 64, 4>
                      : product_kernel<Bits, 64, 8>;
}

}  // namespace bumblebee::cuda
