// The kernel itself; each width of codes is compiled in a file of its own (product_*bit.cu).
#pragma once

#include "backend/cuda/kernels/product_finish.cuh"
#include "backend/cuda/kernels/product_multiply.cuh"
#include "backend/cuda/kernels/product_round.cuh"

namespace bumblebee::cuda {

/// Of experts: the number of a block's tile, whose digits it takes, and the row of x that it rounds itself.
struct ExpertInput {
  int number, row;
};

/// x of a part of the inputs, as digits in shared memory. All working threads call, and x is there when it returns.
template <bool One, bool Lora, bool Experts>
__device__ __forceinline__ void take_input(const ProductArgs& a, const ExpertInput& own, int part,
                                           const SharedPlan& plan, uint8_t* shared, Gates& gates) {
  const int first = slab_begin(a, part) * a.width * (kStageInputs / 32), blocks = blocks_of_part(a, part);
  const int columns = One ? 2 : a.columns;
  if (One && a.input.kind != StageInput::Kind::digits) {
    const RoundTarget to = {shared + plan.digits, reinterpret_cast<StepGroup*>(shared + plan.steps), columns, first};
    RoundWork work = {a.input, a.in, 0, false, blocks};
    if constexpr (Experts) work.input.x += int64_t(own.row) * a.in;
    float* scratch = reinterpret_cast<float*>(shared + plan.partials);
    if constexpr (Lora) {
      LoraShared* lora = reinterpret_cast<LoraShared*>(shared + plan.lora);
      round_one<kWorkingThreads>(work, to, scratch, HeldPieces{lora, lora->pieces, a.in / 8});
      if (threadIdx.x >= kRoundThreads) return barrier_arrive<kWorkersBarrier>(kWorkingThreads);  // it needs no x
    } else {
      round_one<kWorkingThreads>(work, to, scratch);
    }
    barrier_sync<kWorkersBarrier>(kWorkingThreads);
    return;
  }
  const int stored = (min(a.stages * (kStageInputs / 32), first + blocks) - first) / 2;  // groups of 64 that x has
  const int digits = stored * columns * 64, steps = stored * (columns / 2) * int(sizeof(StepGroup));
  const uint8_t* from_digits = a.input.rounded.digits + int64_t(first) * columns * 32;
  const uint8_t* from_steps =
      static_cast<const uint8_t*>(a.input.rounded.steps) + int64_t(first) / 2 * (columns / 2) * int(sizeof(StepGroup));
  if constexpr (Experts) {
    const int64_t before = int64_t(own.number) * a.stages * (kStageInputs / 32);
    from_digits += before * columns * 32;
    from_steps += before / 2 * (columns / 2) * int(sizeof(StepGroup));
  }
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == kWorkingThreads - 1) {
    constexpr int kPiece = 1 << 14;
    wait_for_inputs();
    gate_expect(&gates.input, digits + steps);
    gate_arrive(&gates.input);
    for (int i = 0; i < steps; i += kPiece)
      copy_bulk(shared_address(shared + plan.steps + i), from_steps + i, min(kPiece, steps - i), &gates.input);
    for (int i = 0; i < digits; i += kPiece)
      copy_bulk(shared_address(shared + plan.digits + i), from_digits + i, min(kPiece, digits - i), &gates.input);
  }
  __syncwarp();
  gate_wait(&gates.input, 0);
#else
  const auto copy = [&](uint8_t* to, const uint8_t* from, int bytes) {
#pragma unroll 8
    for (int i = int(threadIdx.x) * 16; i < bytes; i += kWorkingThreads * 16)
      *reinterpret_cast<uint4*>(to + i) = __ldcg(reinterpret_cast<const uint4*>(from + i));
  };
  copy(shared + plan.digits, from_digits, digits);
  copy(shared + plan.steps, from_steps, steps);
  barrier_sync<kWorkersBarrier>(kWorkingThreads);
#endif
}

/// Buffers of partial sums go back and forth between the warps that multiply and the one that finishes.
__device__ __forceinline__ void wait_full(int buffer) {
  if (buffer == 0)
    barrier_sync<1>(kWorkingThreads);
  else
    barrier_sync<2>(kWorkingThreads);
}
__device__ __forceinline__ void say_full(int buffer) {
  if (buffer == 0)
    barrier_arrive<1>(kWorkingThreads);
  else
    barrier_arrive<2>(kWorkingThreads);
}
__device__ __forceinline__ void wait_empty(int buffer) {
  if (buffer == 0)
    barrier_sync<3>(kWorkingThreads);
  else
    barrier_sync<4>(kWorkingThreads);
}
__device__ __forceinline__ void say_empty(int buffer) {
  if (buffer == 0)
    barrier_arrive<3>(kWorkingThreads);
  else
    barrier_arrive<4>(kWorkingThreads);
}

/// The finishing warp's work where adapters change the only row; all inputs are in the block.
__device__ __forceinline__ void finish_lora(const ProductArgs& a, const TileWalk& walk, int count,
                                            const float* partials, LoraShared& lora, uint32_t lane) {
  const int items = (count >> walk.bits) * a.sections, tiles = 1 << walk.bits;
  bool some = true;
  int n = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const TileTarget target = target_of(a, walk(i));
    const Sums<1> residual = load_residual<1>(a, target, lane);
    const int k = i & (tiles - 1);
    Sums<1> sum = {};
#pragma unroll 1
    for (int section = 0; section < a.sections; ++section) {  // one where there are several tiles
      const int at = n & (a.buffers - 1);
      const float* buffer = partials + at * kConsumers * kSumFloats<1>;
      if (k == 0) wait_full(at);
      const Sums<1> s = tree_sum<1>(buffer + k * a.width * kSumFloats<1>, kSumFloats<1>, a.width, lane);
      if (k + 1 == tiles) {
        __syncwarp();
        if (n + a.buffers < items) say_empty(at);
        ++n;
      }
      sum = section > 0 ? sum + s : s;
    }
    const float2 change = take_change(lora, i, count, some, lane);
    write_outputs<1, true>(a, whole_stage(a), target, lane, sum, residual, change);
  }
}

/// All of the finishing warp's work after x is there.
template <int Tiles>
__device__ __forceinline__ void finish(const ProductArgs& a, const ProductSlot& of, int part, int first_unit,
                                       int stride, const float* partials, uint32_t lane) {
  const int tiles = kConsumers >> a.width_bits, begin = section_begin(a, part), end = section_begin(a, part + 1);
  const int items = (a.units - first_unit + stride - 1) / stride * (end - begin);
  int n = 0;
  for (int unit = first_unit; unit < a.units; unit += stride) {
    TileTarget target = {};
    Sums<Tiles> residual = {}, sum = {};
    if (a.parts == 1) {
      target = target_of(a, unit * tiles);
      residual = load_residual<Tiles>(a, target, lane);  // asked for before the sums are there
    }
#pragma unroll 1
    for (int section = begin; section < end; ++section, ++n) {
      const int at = n & (a.buffers - 1);
      const float* buffer = partials + at * kConsumers * kSumFloats<Tiles>;
      wait_full(at);
#pragma unroll 1
      for (int k = 0; k < tiles; ++k) {
        Sums<Tiles> s = tree_sum<Tiles>(buffer + k * a.width * kSumFloats<Tiles>, kSumFloats<Tiles>, a.width, lane);
        if (k + 1 == tiles) {
          __syncwarp();
          if (n + a.buffers < items) say_empty(at);
        }
        if (a.parts > 1) {
          store_sums<Tiles, true>(shared_sums<Tiles>(a, unit, k) + section * kSumFloats<Tiles>, lane, s);
          continue;
        }
        if (section > begin) s = sum + s;
        sum = s;  // several tiles only where there is one section
        if (section + 1 < end) continue;
        if (k > 0) {
          target = target_of(a, unit * tiles + k);
          residual = load_residual<Tiles>(a, target, lane);
        }
        write_outputs<Tiles>(a, of, target, lane, s, residual);
      }
    }
  }
}

/// Two blocks of few rows share a multiprocessor where kernels overlap.
constexpr int blocks_of(int tiles) { return tiles > 1 || kCopiers > 1 ? 1 : 2; }

/// Threads of a block; adapters have a warp of their own, the last.
constexpr int block_threads(bool lora) { return kBlockThreads + (lora ? 32 : 0); }

/// One: a single row of x. Lora: with adapters. Experts: of stacks. Tiles: of four rows of digits.
template <int Bits, int Group, int Tiles, bool One, bool Lora, bool Experts>
__device__ __forceinline__ void run_product(const ProductArgs& a, const ProductMaps& maps, const SharedPlan& plan) {
  extern __shared__ __align__(1024) uint8_t shared[];
  launch_dependents();
  const int warp = int(threadIdx.x / 32);
  const uint32_t lane = threadIdx.x % 32;
  const int sharers = Experts ? a.experts.slots : a.parts;
  const int part = Experts ? 0 : int(blockIdx.x) % sharers, first_unit = int(blockIdx.x) / sharers;
  const int stride = int(gridDim.x) / sharers;
  float* partials = reinterpret_cast<float*>(shared + plan.partials);
  Gates& gates = *reinterpret_cast<Gates*>(shared + plan.gates);
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.depth; ++i)
      gate_init(gates.full + i, a.boxes ? 1 : 33 * kCopiers), gate_init(gates.empty + i, kConsumers);
    gate_init(&gates.input, 1);
    gates_ready();
  }
  constexpr int kLoraWarp = kConsumers + 1 + kCopiers;
  if constexpr (Lora)
    if (warp == kLoraWarp && lane == 0) deal_pieces(a, *reinterpret_cast<LoraShared*>(shared + plan.lora));
  ProductSlot of = whole_stage(a);
  ExpertInput own = {};
  if constexpr (Experts) {
    own.number = int(blockIdx.x) % sharers;
    wait_for_inputs();
    if (own.number >= __ldcg(a.experts.count)) return;
    const int4 tile = __ldcg(reinterpret_cast<const int4*>(a.experts.tile) + own.number);
    of = {tile.x, tile.y, tile.z};
    own.row = a.experts.row_of != nullptr ? __ldcg(a.experts.row_of + of.first) : of.first;
  }
  __syncthreads();
  const TileWalk walk = {first_unit, stride, kConsumerBits - a.width_bits};
  const int tiles = (a.units - first_unit + stride - 1) / stride << walk.bits;
  if constexpr (Lora)
    if (warp == kLoraWarp) return adapt(a, *reinterpret_cast<LoraShared*>(shared + plan.lora), walk, tiles, lane);
  if (warp > kConsumers)
    return copy_weights(a, maps, of, part, first_unit, stride, shared, gates, warp - kConsumers - 1, lane);
  take_input<One, Lora, Experts>(a, own, part, plan, shared, gates);
  if (warp == kConsumers) {
    if constexpr (Lora) {
      return finish_lora(a, walk, tiles, partials, *reinterpret_cast<LoraShared*>(shared + plan.lora), lane);
    } else {
      finish<Tiles>(a, of, part, first_unit, stride, partials, lane);
      if (a.parts > 1) collect_units<Tiles>(a, part, first_unit, stride, warp, lane);
      return;
    }
  }

  const int columns = One ? 2 : Tiles == 1 ? a.columns : Tiles * 8;                         // known, where they can be
  const int digit_bytes = columns * 64, step_bytes = columns / 2 * int(sizeof(StepGroup));  // of 64 inputs
  const int of_class = warp & (a.width - 1), own_tile = warp >> a.width_bits;
  InputView start = {shared + plan.digits + of_class * 4 * digit_bytes + int(lane % 4) * 16,
                     shared + plan.steps + of_class * 4 * step_bytes, digit_bytes, step_bytes};
  if (One) {
    start.digits += int(lane / 8) * digit_bytes + int(lane / 4 % 2) * 64;
    start.steps += int(lane % 4) * step_bytes;
  } else {
    start.digits += min(int(lane / 4), columns - 1) * 64;
    start.steps += min(int(lane % 4), columns / 2 - 1) * int(sizeof(StepGroup));
  }
  const StageView of_slot = {shared + own_tile * 2 * a.half_bytes,
                             shared + a.scales_at + own_tile * kTileRows * a.slab_scales + of_class * a.stage_scales,
                             of_class};
  const int slab_begins = slab_begin(a, part), slab_ends = slab_begin(a, part + 1);
  int slot = 0, n = 0;
  uint32_t parity = 0;
  const auto stage_in = [&](int at) {
    return StageView{of_slot.codes + at * a.slot_bytes, of_slot.scales + at * a.slot_bytes, of_class};
  };
  const auto leave = [&](int at) {
    __syncwarp();
    if (lane == 0) gate_arrive(gates.empty + at);
  };
  const auto next_slot = [&] {
    if (++slot == a.depth) slot = 0, parity ^= 1;
  };
  for (int unit = first_unit; unit < a.units; unit += stride) {
    InputView x = start;
    const auto next_inputs = [&] {
      x.digits += a.width * 4 * digit_bytes;
      x.steps += a.width * 4 * step_bytes;
    };
#pragma unroll 1
    for (int slab = slab_begins; slab < slab_ends; ++n) {
      Sums<Tiles> sums = {};
      const int end = min(slab + kSectionSlabs, slab_ends);
      if constexpr (One) {
        // Two stages at a time, so that a warp has more than one chain of dependent instructions.
        if (a.scale != ScaleType::f32 && end - slab == 2 && (slab + 1) * a.width + of_class < a.stages) {
          const int first = slot;
          gate_wait(gates.full + first, parity);
          next_slot();
          gate_wait(gates.full + slot, parity);
          const InputView own = x;
          next_inputs();
          multiply_stages_one<Bits, Group>(a, stage_in(first), stage_in(slot), own, x, lane, sums.v[0]);
          leave(first);
          leave(slot);
          next_slot();
          next_inputs();
          slab = end;
        }
#pragma unroll 1
        for (; slab < end; ++slab) {
          gate_wait(gates.full + slot, parity);
          if (slab * a.width + of_class < a.stages)
            multiply_stage_one<Bits, Group>(a, stage_in(slot), x, lane, sums.v[0]);
          leave(slot);
          next_slot();
          next_inputs();
        }
        sums.v[0][0] = over_groups(sums.v[0][0]);
        sums.v[0][1] = over_groups(sums.v[0][1]);
      } else {
        float acc[Tiles][4][2] = {};
#pragma unroll 1
        for (; slab < end; ++slab) {
          gate_wait(gates.full + slot, parity);
          if (slab * a.width + of_class < a.stages) multiply_stage<Bits, Group, Tiles>(a, stage_in(slot), x, lane, acc);
          leave(slot);
          next_slot();
          next_inputs();
        }
#pragma unroll
        for (int i = 0; i < Tiles; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h) sums.v[i][h] = (acc[i][0][h] + acc[i][1][h]) + (acc[i][2][h] + acc[i][3][h]);
      }
      const int at = n & (a.buffers - 1);
      if (n >= a.buffers) wait_empty(at);
      store_sums<Tiles, false>(partials + (at * kConsumers + warp) * kSumFloats<Tiles>, lane, sums);
      __syncwarp();
      say_full(at);
    }
  }
  if (a.parts > 1) collect_units<Tiles>(a, part, first_unit, stride, warp, lane);
}

template <int Bits, int Group, int Tiles, bool One = false, bool Experts = false>
__global__ void __launch_bounds__(block_threads(false), blocks_of(Tiles))
    product_kernel(const __grid_constant__ ProductArgs a, const __grid_constant__ ProductMaps maps,
                   const SharedPlan plan) {
  run_product<Bits, Group, Tiles, One, false, Experts>(a, maps, plan);
}
/// One row with adapters. Such blocks are apart, but leave registers to one of another kernel.
template <int Bits, int Group>
__global__ void __maxnreg__(104)
    adapted_product_kernel(const __grid_constant__ ProductArgs a, const __grid_constant__ ProductMaps maps,
                           const SharedPlan plan) {
  run_product<Bits, Group, 1, true, true, false>(a, maps, plan);
}

using ProductKernel = void (*)(ProductArgs, ProductMaps, SharedPlan);

/// tiles 0: one row, -1: one row with adapters, -2: one row of an expert, -3: some rows of one.
template <int Bits, int Group>
ProductKernel product_kernel_of(int tiles) {
  switch (tiles) {
    case -3: return product_kernel<Bits, Group, 1, false, true>;
    case -2: return product_kernel<Bits, Group, 1, true, true>;
    case -1: return adapted_product_kernel<Bits, Group>;
    case 0: return product_kernel<Bits, Group, 1, true>;
    case 1: return product_kernel<Bits, Group, 1>;
    case 2: return product_kernel<Bits, Group, 2>;
    default: return product_kernel<Bits, Group, 4>;
  }
}
template <int Bits>
ProductKernel product_kernel_of(int group, int tiles) {
  return group == 32 ? product_kernel_of<Bits, 32>(tiles) : product_kernel_of<Bits, 64>(tiles);
}

}  // namespace bumblebee::cuda
