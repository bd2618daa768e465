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
  if (depth == 2) return copy_async_wait<1>();
  return copy_async_wait<0>();
}

/// x of a part of the inputs, as digits in shared memory.
template <bool One, bool Lora>
__device__ __forceinline__ void take_input(const ProductArgs& a, int part, const SharedPlan& plan, uint8_t* shared) {
  const int first = part_begin(a, part) * (kStageInputs / 32), blocks = blocks_of_part(a, part);
  const int columns = One ? 2 : a.columns;
  if (a.input.kind != StageInput::Kind::digits) {
    const RoundTarget to = {shared + plan.digits, reinterpret_cast<StepGroup*>(shared + plan.steps), columns, first};
    const RoundWork work = {a.input, a.in, a.rows, 0, !One && a.exact != 0, blocks};
    float* scratch = reinterpret_cast<float*>(shared + plan.partials);
    LoraShared* lora = reinterpret_cast<LoraShared*>(shared + plan.lora);
    if constexpr (Lora)
      round_one(work, to, scratch, HeldPieces{lora, a.held, lora->pieces});
    else if (One)
      round_one(work, to, scratch);
    else
      round_rows(work, to, scratch);
    return;
  }
  wait_for_inputs();
  const int digits = blocks * columns * 2, steps = blocks / 2 * (columns / 2);  // of 16 bytes
  const uint4* from = reinterpret_cast<const uint4*>(a.input.rounded.digits) + int64_t(first) * columns * 2;
  uint4* to = reinterpret_cast<uint4*>(shared + plan.digits);
#pragma unroll 8
  for (int i = int(threadIdx.x); i < digits; i += kBlockThreads) to[i] = __ldcg(from + i);
  from = static_cast<const uint4*>(a.input.rounded.steps) + int64_t(first) / 2 * (columns / 2);
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

/// The ninth warp's work where adapters change the only row; all inputs are in the block.
__device__ __forceinline__ void finish_lora(const ProductArgs& a, int first_unit, int stride, const float* partials,
                                            LoraShared& lora, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits;
  TileTarget target = target_of(a, first_unit * tiles);
  LaneChange asked = ask_change(a, lora, target.half, lane);  // a tile ahead
  publish_pieces(a, lora, lane);
  const uint32_t left = take_u(a, lora, lane);
  const float* u = lora_u(a, lora);
  for (int unit = first_unit, n = 0; unit < a.units; unit += stride, ++n) {
    const float* buffer = partials + (n % 2) * kConsumers * kSumFloats<1>;
#pragma unroll 1
    for (int k = 0; k < tiles; ++k) {
      const Sums<1> residual = load_residual<1>(a, target, lane);
      const float2 change = form_change(asked, u, lane);
      const TileTarget own = target;
      target = target_of(a, k + 1 < tiles ? unit * tiles + k + 1 : (unit + stride) * tiles);
      asked = ask_change(a, lora, target.half, lane);
      if (k == 0) wait_full(n % 2);
      const Sums<1> s = tree_sum<1, false>(buffer + k * a.width * kSumFloats<1>, kSumFloats<1>, a.width, lane);
      if (k + 1 == tiles) {
        __syncwarp();
        if (unit + 2 * stride < a.units) say_empty(n % 2);
      }
      write_outputs<1, true>(a, own, lane, s, residual, change);
    }
  }
  close_lora(a, left);
}

/// All of the ninth warp's work after x is there.
template <int Tiles>
__device__ __forceinline__ void finish(const ProductArgs& a, int part, int first_unit, int stride,
                                       const float* partials, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits;
  int published = -1;
  for (int unit = first_unit, n = 0; unit < a.units; unit += stride, ++n) {
    const float* buffer = partials + (n % 2) * kConsumers * kSumFloats<Tiles>;
    const bool wanted_again = unit + 2 * stride < a.units;
    if (a.parts == 1) {
      TileTarget target = target_of(a, unit * tiles);
      Sums<Tiles> residual = load_residual<Tiles>(a, target, lane);  // asked for before the sums are there
      wait_full(n % 2);
      for (int k = 0;;) {
        const Sums<Tiles> s =
            tree_sum<Tiles, false>(buffer + k * a.width * kSumFloats<Tiles>, kSumFloats<Tiles>, a.width, lane);
        if (k + 1 == tiles) {
          __syncwarp();
          if (wanted_again) say_empty(n % 2);
        }
        write_outputs<Tiles>(a, target, lane, s, residual);
        if (++k == tiles) break;
        target = target_of(a, unit * tiles + k);
        residual = load_residual<Tiles>(a, target, lane);
      }
    } else {
      wait_full(n % 2);
      publish_unit<Tiles>(a, unit, part, buffer, lane);
      __syncwarp();
      if (wanted_again) say_empty(n % 2);
      if (published >= 0) collect_unit<Tiles>(a, published, part, lane);  // by now the other parts are there too
      published = unit;
    }
  }
  if (published >= 0) collect_unit<Tiles>(a, published, part, lane);
}

/// One: a single row of x. Lora: with adapters. Tiles: of four rows of digits.
template <int Bits, int Group, int Tiles, bool One = false, bool Lora = false>
__global__ void __launch_bounds__(kBlockThreads, Tiles > 4 ? 1 : 2)
    product_kernel(const __grid_constant__ ProductArgs a, const SharedPlan plan) {
  extern __shared__ __align__(128) uint8_t shared[];
  launch_dependents();
  const int warp = int(threadIdx.x / 32);
  const uint32_t lane = threadIdx.x % 32;
  const int part = int(blockIdx.x) & (a.parts - 1), first_unit = int(blockIdx.x) >> a.part_bits;
  const int stride = int(gridDim.x) >> a.part_bits;
  float* partials = reinterpret_cast<float*>(shared + plan.partials);

  const int tiles = kConsumers >> a.width_bits, own_tile = warp >> a.width_bits;
  const int index = (part << a.width_bits) + (warp & (a.width - 1));
  const int begin = class_begin(a, index), end = class_begin(a, index + 1);
  const uint8_t* ring = shared + warp * a.depth * a.slot_bytes;
  int next_unit = first_unit, next_stage = begin;  // what will be asked for
  TileSource source = open_tile<Bits>(a, next_unit * tiles + own_tile, lane);
  const uint64_t policy = read_once_policy();
  const auto ask = [&](const uint8_t* slot) {
    if (next_unit < a.units) {
      copy_stage<Bits>(a, source, next_stage, shared_address(slot), lane, policy);
      if (++next_stage == end) {
        next_stage = begin;
        next_unit += stride;
        advance_tile<Bits>(a, source, next_unit * tiles + own_tile, stride * tiles, lane);
      }
    }
    copy_async_commit();
  };
  if (warp < kConsumers) {
#pragma unroll 1
    for (int i = 0; i < a.depth; ++i) ask(ring + i * a.slot_bytes);
  }
  if constexpr (Lora) {
    if (warp == kConsumers) open_lora(a, *reinterpret_cast<LoraShared*>(shared + plan.lora), lane);
    __syncthreads();
  }
  take_input<One, Lora>(a, part, plan, shared);
  __syncthreads();
  if constexpr (Lora) {
    if (warp == kConsumers)
      return finish_lora(a, first_unit, stride, partials, *reinterpret_cast<LoraShared*>(shared + plan.lora), lane);
  }
  if (warp == kConsumers) return finish<Tiles>(a, part, first_unit, stride, partials, lane);

  const int columns = One ? 2 : Tiles == 1 ? a.columns : Tiles * 8;  // known, where they can be
  const int block_bytes = columns * 32, group_bytes = columns / 2 * int(sizeof(StepGroup));
  const int behind = begin - part_begin(a, part);  // stages of this part before this class
  int digits_at = behind * 8 * block_bytes, steps_at = behind * 4 * group_bytes;
  if (One) {
    digits_at += int(lane / 8) * 2 * block_bytes + int(lane / 4 % 2) * 32;
    steps_at += int(lane % 4) * group_bytes;
  } else {
    digits_at += min(int(lane / 4), columns - 1) * 32;
    steps_at += min(int(lane % 4), columns / 2 - 1) * int(sizeof(StepGroup));
  }
  const InputView start = {shared + plan.digits + digits_at + int(lane % 4 * 8), shared + plan.steps + steps_at,
                           block_bytes, group_bytes};
  float* scales = reinterpret_cast<float*>(shared + plan.scales) + warp * kScaleFloats<Group>;
  const int pair_end = a.scale == ScaleType::f32 ? begin : end;
  const uint8_t *slot = ring, *ring_end = ring + a.depth * a.slot_bytes;
  for (int unit = first_unit, n = 0; unit < a.units; unit += stride, ++n) {
    Sums<Tiles> sums = {};
    InputView x = start;
    const auto next_slot = [&] {
      slot += a.slot_bytes;
      if (slot == ring_end) slot = ring;
    };
    const auto next_inputs = [&] {
      x.digits += 8 * block_bytes;
      x.steps += 4 * group_bytes;
    };
    int stage = begin;
    if constexpr (One) {  // two stages at a time, so that a warp has more than one chain of dependent instructions
#pragma unroll 1
      for (; stage + 1 < pair_end; stage += 2) {
        wait_for_oldest(a.depth - 1);
        __syncwarp();
        const uint8_t* second = slot + a.slot_bytes == ring_end ? ring : slot + a.slot_bytes;
        InputView later = x;
        later.digits += 8 * block_bytes;
        later.steps += 4 * group_bytes;
        multiply_stages_one<Bits, Group>(a, slot, second, x, later, lane, sums.v[0]);
        __syncwarp();
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
          ask(slot);
          next_slot();
          next_inputs();
        }
      }
    }
#pragma unroll 1
    for (; stage < end; ++stage) {
      wait_for_oldest(a.depth);
      if constexpr (One) {
        __syncwarp();
        multiply_stage_one<Bits, Group>(a, slot, x, lane, sums.v[0]);
      } else {
        widen_scales<Group>(a, slot + kTileRows * stage_pitch(Bits), scales, lane);
        __syncwarp();
        multiply_stage<Bits, Group, Tiles>(slot, scales, x, lane, sums.v);
      }
      __syncwarp();
      ask(slot);
      next_slot();
      next_inputs();
    }
    if (n >= 2) wait_empty(n % 2);
    store_sums<Tiles, false>(partials + ((n % 2) * kConsumers + warp) * kSumFloats<Tiles>, lane, sums);
    __syncwarp();
    say_full(n % 2);
  }
}

using ProductKernel = void (*)(ProductArgs, SharedPlan);

/// tiles 0: one row, -1: one row with adapters.
template <int Bits, int Group>
ProductKernel product_kernel_of(int tiles) {
  switch (tiles) {
    case -1: return product_kernel<Bits, Group, 1, true, true>;
    case 0: return product_kernel<Bits, Group, 1, true>;
    case 1: return product_kernel<Bits, Group, 1>;
    case 2: return product_kernel<Bits, Group, 2>;
    case 4: return product_kernel<Bits, Group, 4>;
    default: return product_kernel<Bits, Group, 8>;
  }
}
template <int Bits>
ProductKernel product_kernel_of(int group, int tiles) {
  return group == 32 ? product_kernel_of<Bits, 32>(tiles) : product_kernel_of<Bits, 64>(tiles);
}

}  // namespace bumblebee::cuda
