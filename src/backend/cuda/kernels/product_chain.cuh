// The kernel of product_chain.h. Warps have the work that they have in product_kernel.cuh, link after link. What one
// link writes another reads, from all blocks, so that a barrier of the grid is between them; the warp that copies
// passes it by.
#pragma once

#include "backend/cuda/kernels/product_chain.h"
#include "backend/cuda/kernels/product_chain_lora.cuh"
#include "backend/cuda/kernels/product_kernel.cuh"

namespace bumblebee::cuda {

/// What links have in common: eight classes, tensor copies, scales of 16 bits.
template <int Bits, int Group>
struct LinkShape {
  static constexpr int kWidth = kMaxClasses;
  static constexpr int kStageScales = 2 * (kStageInputs / Group), kSlabScales = kWidth * kStageScales;
  static constexpr int kHalfBytes = columns_of_slab(Bits, kWidth) * kHalfColumn;
  static constexpr int kScalesAt = 2 * kHalfBytes, kPlane = kTileRows * kSlabScales;
  static constexpr int kSlabBytes = kScalesAt + 2 * kPlane;
  static constexpr int kSlotBytes = (kSlabBytes + kHalfColumn - 1) / kHalfColumn * kHalfColumn;
};

/// A stage, and where the blocks begin with its units (LinkShifts).
struct ChainLink {
  ProductArgs args;
  ProductMaps maps;
  int32_t shift;
};
/// One for each barrier of the grid, and one for blocks that have left; each a line of its own.
inline constexpr int kCounterApart = 32;

struct ChainArgs {
  ChainLink link[kMostLinks];
  int32_t links;
  uint32_t* arrived;
  ChainShared shared;
  PastAhead ahead;
};
using ChainKernel = void (*)(ChainArgs);
/// `runs`: of adapters, the most of a warp and link (kMostRuns); 0: there are none.
ChainKernel chain_kernel_4bit(int runs, Beside beside);

/// Slabs that a block has asked for and not got yet (kAskedAtOnce), while it waits for x.
inline constexpr int kAskedForX = 1;
/// Units that a block brings to L2 while its ring is full before it has x, and how long half a slab's bytes take it, in
/// cycles, when all blocks do so.
inline constexpr int kUnitsAhead = 2, kPrefetchCycles = 700;
/// What of a past L2 has room for beside what else passes it, and how fast a block asks for it.
inline constexpr int kMostPastAhead = 24 << 20, kPastBytesOfCycle = 16;
/// Adapters have a warp of their own, the last.
constexpr int chain_threads(bool lora) { return kWorkingThreads + 32 + (lora ? 32 : 0); }

/// The first of this block's units.
__device__ __forceinline__ int first_unit_of(int shift) { return int((blockIdx.x + unsigned(shift)) % gridDim.x); }

#if __CUDA_ARCH__ >= 900
/// gate_wait() that does not wait.
__device__ __forceinline__ bool gate_is_through(uint64_t* gate, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(shared_address(gate)), "r"(parity)
               : "memory");
  return done != 0;
}
/// Brings units to L2 from a block's `unit` on, eight rows at a time, which lie one after the other; as fast as memory
/// has them, so that x waits for few. Until `stop` says so. Returns how many units are left.
template <class Stop>
__device__ __forceinline__ int prefetch_units(const ProductArgs& a, int unit, int units, const Stop& stop) {
#pragma unroll 1
  for (; units > 0 && unit < a.units; --units, unit += int(gridDim.x)) {
#pragma unroll 1
    for (int h = 0; h < 2; ++h) {
      const TileHalf half = half_of_tile(a, unit, h);
      const int rows = min(8, half.left);
      if (rows <= 0) continue;
      const StageWeight& w = a.term[half.term];
      prefetch_bulk(static_cast<const uint8_t*>(w.codes) + int64_t(half.row) * a.row_bytes, rows * a.row_bytes);
      prefetch_bulk(static_cast<const uint8_t*>(w.scales) + int64_t(half.row) * a.scale_row_bytes,
                    rows * a.scale_row_bytes);
      prefetch_bulk(static_cast<const uint8_t*>(w.biases) + int64_t(half.row) * a.scale_row_bytes,
                    rows * a.scale_row_bytes);
      const int64_t begin = clock64();
      while (clock64() - begin < kPrefetchCycles * a.slabs)
        if (stop()) return 0;
    }
  }
  return units;
}
/// Brings the newest tokens to L2, about as fast as memory has them. Until `stop` says so.
template <class Stop>
__device__ __forceinline__ void prefetch_past(const PastAhead& past, const Stop& stop) {
  const int last = past.cached[0], begin = past.window > 0 ? max(0, last - past.window + 1) : 0;
  if (last < 0) return;
  const uint8_t* const* const pages = past.pages + past.first_page[0];
  const int newest = last / past.page_size, units = (newest + 1 - begin / past.page_size) * past.pieces;
#pragma unroll 1
  for (int unit = int(blockIdx.x); unit < min(units, kMostPastAhead / past.piece); unit += int(gridDim.x)) {
    prefetch_bulk(pages[newest - unit / past.pieces] + past.at + int64_t(unit % past.pieces) * past.piece, past.piece);
    const int64_t start = clock64();
    while (clock64() - start < past.piece / kPastBytesOfCycle)
      if (stop()) return;
  }
}
#endif

/// All of the copying warp's work, by one lane.
template <class Shape>
__device__ __forceinline__ void copy_chain(const ChainArgs& c, uint8_t* ring, ChainGates& gates) {
#if __CUDA_ARCH__ >= 900
  const uint64_t policy = read_once_policy();
  int slot = 0, behind = 0, asked = 0, had = 0;
  uint32_t parity = 1, behind_parity = 0;
  const volatile int32_t* waits = &gates.waits;
  const auto wait_behind = [&] {
    gate_wait(gates.full + behind, behind_parity);
    if (++behind == c.shared.depth) behind = 0, behind_parity ^= 1;
  };
#pragma unroll 1
  for (int l = 0; l < c.links; ++l) {
    const ChainLink& link = c.link[l];
    const ProductArgs& a = link.args;
    const ProductSlot of = whole_stage(a);
    const int slabs = a.slabs;
#pragma unroll 1
    for (int unit = first_unit_of(link.shift); unit < a.units; unit += int(gridDim.x)) {
      const TileHalf half[2] = {half_of_tile(a, unit, 0), half_of_tile(a, unit, 1)};
#pragma unroll 1
      for (int slab = 0; slab < slabs; ++slab) {
        if (asked == c.shared.depth) {  // once: from then on a slot is asked for as soon as it is empty
          for (; had < asked; ++had) wait_behind();
          const auto stop = [&] { return gate_is_through(gates.empty + slot, parity); };
          const int left = prefetch_units(a, slab == 0 ? unit : unit + int(gridDim.x), kUnitsAhead, stop);
          if (l + 1 < c.links) prefetch_units(c.link[l + 1].args, first_unit_of(c.link[l + 1].shift), left, stop);
        }
        gate_wait(gates.empty + slot, parity);
        for (; asked - had >= (*waits != 0 ? kAskedForX : kAskedAtOnce); ++had) wait_behind();
        ++asked;
        uint64_t* gate = gates.full + slot;
        gate_expect(gate, Shape::kSlabBytes);
        const uint32_t codes = shared_address(ring) + uint32_t(slot * Shape::kSlotBytes);
        const uint32_t scales = codes + Shape::kScalesAt;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int term = half[h].term, row = of.weights_row(a, half[h]);
          copy_box(codes + h * Shape::kHalfBytes, link.maps.codes + term, 0, row,
                   slab * (Shape::kHalfBytes / kHalfColumn), gate, policy);
          copy_box(scales + h * 8 * Shape::kSlabScales, link.maps.scales + term, slab * Shape::kSlabScales, row, gate,
                   policy);
          copy_box(scales + Shape::kPlane + h * 8 * Shape::kSlabScales, link.maps.biases + term,
                   slab * Shape::kSlabScales, row, gate, policy);
        }
        gate_arrive(gate);
        if (++slot == c.shared.depth) slot = 0, parity ^= 1;
      }
    }
  }
  if (c.ahead.pieces > 0) prefetch_past(c.ahead, [&] { return *waits < 0; });
#endif
}

/// Until x of a link is there; all working threads call. Meanwhile the block asks for less, so that x is there soon.
struct WaitsForLink {
  uint32_t* arrived;  // of the link before, or null: the kernels before
  volatile int32_t* waits;
  int warp;
  uint32_t lane;
  __device__ __forceinline__ void operator()() const {
    if (arrived == nullptr) return wait_for_inputs();
    if (warp == kConsumers) {
      if (lane == 0) {
        *waits = 1;
        wait_counter(arrived, gridDim.x);
      }
      __syncwarp();
    }
    barrier_sync<kWorkersBarrier>(kWorkingThreads);
  }
};

/// The ring's place of a warp that multiplies.
struct RingPlace {
  int slot = 0;
  uint32_t parity = 0;
};

/// A link's share of a warp that multiplies.
template <int Bits, int Group>
__device__ __forceinline__ void multiply_link(const ChainArgs& c, const ChainLink& link, uint8_t* shared,
                                              ChainGates& gates, RingPlace& ring, int warp, uint32_t lane) {
  using Shape = LinkShape<Bits, Group>;
  constexpr int kDigitBytes = 2 * 64, kStepBytes = int(sizeof(StepGroup));  // of 64 inputs
  const ProductArgs& a = link.args;
  ProductArgs known;  // what multiplying asks of it
  known.slab_scales = Shape::kSlabScales, known.half_bytes = Shape::kHalfBytes, known.plane = Shape::kPlane;
  known.group = Group, known.scale = a.scale;
  const InputView start = {
      shared + c.shared.digits + (warp * 4 + int(lane / 8)) * kDigitBytes + int(lane / 4 % 2) * 64 + int(lane % 4) * 16,
      shared + c.shared.steps + (warp * 4 + int(lane % 4)) * kStepBytes, kDigitBytes, kStepBytes};
  float* partials = reinterpret_cast<float*>(shared + c.shared.partials);
  const auto stage_in = [&](int at) {
    const uint8_t* slot = shared + at * Shape::kSlotBytes;
    return StageView{slot, slot + Shape::kScalesAt + warp * Shape::kStageScales, warp};
  };
  const auto leave = [&](int at) {
    __syncwarp();
    if (lane == 0) gate_arrive(gates.empty + at);
  };
  const auto next_slot = [&] {
    if (++ring.slot == c.shared.depth) ring.slot = 0, ring.parity ^= 1;
  };
  const int slabs = a.slabs, stages = a.stages, units = a.units;
  int n = 0;
#pragma unroll 1
  for (int unit = first_unit_of(link.shift); unit < units; unit += int(gridDim.x)) {
    InputView x = start;
    const auto next_inputs = [&] {
      x.digits += Shape::kWidth * 4 * kDigitBytes;
      x.steps += Shape::kWidth * 4 * kStepBytes;
    };
#pragma unroll 1
    for (int slab = 0; slab < slabs; slab += kSectionSlabs, ++n) {
      float sums[2] = {};
      if (slab + 1 < slabs && (slab + 1) * Shape::kWidth + warp < stages) {
        const int first = ring.slot;
        gate_wait(gates.full + first, ring.parity);
        next_slot();
        gate_wait(gates.full + ring.slot, ring.parity);
        const InputView own = x;
        next_inputs();
        multiply_stages_one<Bits, Group>(known, stage_in(first), stage_in(ring.slot), own, x, lane, sums);
        leave(first);
        leave(ring.slot);
        next_slot();
        next_inputs();
      } else {
#pragma unroll 1
        for (int at = slab; at < min(slab + kSectionSlabs, slabs); ++at) {
          gate_wait(gates.full + ring.slot, ring.parity);
          if (at * Shape::kWidth + warp < stages)
            add_parts<Group>(parts_of_one<Bits, Group, false>(known, stage_in(ring.slot), x, lane), sums);
          leave(ring.slot);
          next_slot();
          next_inputs();
        }
      }
      Sums<1> sum;
      sum.v[0][0] = over_groups(sums[0]), sum.v[0][1] = over_groups(sums[1]);
      const int buffer = n & (kChainBuffers - 1);
      if (n >= kChainBuffers) wait_empty(buffer);
      store_sums<1, false>(partials + (buffer * kConsumers + warp) * kSumFloats<1>, lane, sum);
      say_full(buffer);
    }
  }
}

/// The finishing warp's share of a link, as finish() has it. What depends on the unit alone is there before its sums.
/// Adapters, where `lora` is not null: `formed` counts the tiles for which they add something; the first of a link may
/// have to wait for that, and does so when its sums are out of the way.
template <bool Lora>
__device__ __forceinline__ void finish_link(const ChainLink& link, const float* partials, ChainLora* lora, int& formed,
                                            uint32_t lane) {
  const ProductArgs& a = link.args;
  const bool pairs = a.epilogue == ProductStage::Epilogue::silu_mul, adds = a.epilogue == ProductStage::Epilogue::add;
  const int first = first_unit_of(link.shift), stride = int(gridDim.x), units = a.units, sections = a.sections;
  const int items = (units - first + stride - 1) / stride * sections, row = int(lane / 4);
  int n = 0;
#pragma unroll 1
  for (int unit = first; unit < units; unit += stride) {
    float* to[2];
    float bias[2], residual[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const TileHalf half = half_of_tile(a, unit, h);
      const StageWeight& term = a.term[half.term];
      const bool there = row < half.left;
      bias[h] = there && term.bias != nullptr ? __ldg(term.bias + half.row + row) : 0.0f;
      residual[h] = there && adds ? __ldcg(a.residual + half.row + row) : 0.0f;
      to[h] = there && lane % 4 == 0 && !(pairs && h == 1) ? term.y + half.row + row : nullptr;
    }
    float2 change = {};
    if (Lora && lora != nullptr && unit != first) change = take_change(*lora, formed++, lane);
    Sums<1> sum = {};
#pragma unroll 1
    for (int section = 0; section < sections; ++section, ++n) {
      const int at = n & (kChainBuffers - 1);
      wait_full(at);
      const Sums<1> s = tree_sum<1>(partials + at * kConsumers * kSumFloats<1>, kSumFloats<1>, kMaxClasses, lane);
      __syncwarp();
      if (n + kChainBuffers < items) say_empty(at);
      sum = section > 0 ? sum + s : s;
    }
    float v[2] = {sum.v[0][0] + bias[0], sum.v[0][1] + bias[1]};
    if (Lora && lora != nullptr) {
      if (unit == first) change = take_change(*lora, formed++, lane);
      v[0] += change.x, v[1] += change.y;
    }
    if (pairs)
      v[0] = v[0] / (1.0f + expf(-v[0])) * v[1];
    else
      v[0] += residual[0], v[1] += residual[1];
#pragma unroll
    for (int h = 0; h < 2; ++h)
      if (to[h] != nullptr) __stcg(to[h], v[h]);
  }
}

/// All of the work of the warp that adapters have. It looks for a link while the others work on the one before; where
/// that one's sums are there already, they come first.
__device__ __forceinline__ void adapt_chain(const ChainArgs& c, ChainLora& lora, uint32_t lane) {
#if __CUDA_ARCH__ >= 900
  int formed = 0;
#pragma unroll 1
  for (int l = -1; l < c.links; ++l) {
    const LoraTerm next = l + 1 < c.links ? load_term(c.link[l + 1].args, lane) : LoraTerm();
    LinkTiles tiles = {};
    bool late = false;
    if (l >= 0) {
      const int first = first_unit_of(c.link[l].shift), left = c.link[l].args.units - first, stride = int(gridDim.x);
      tiles = {{first, stride, 0}, left > 0 ? (left + stride - 1) / stride : 0};
      ask_changes(c.link[l].args, lora, l, tiles, lane);
      late = __all_sync(0xffffffffu, gate_is_through(lora.summed + l, 0));
    }
#pragma unroll 1
    for (int step = 0; step < 2; ++step) {
      if ((step == 0) == late && l >= 0 && c.link[l].args.lora.ranks > 0) tell_pieces(c.link[l].args, lora, l, lane);
      if ((step == 0) != late && l + 1 < c.links) find_link(c.link[l + 1].args, lora, l + 1, next, lane);
    }
    if (l >= 0) form_changes(c.link[l].args, lora, l, tiles, formed, lane);
  }
#endif
}

/// A thread's number is unknown to the compiler, which would keep what follows from it from one link to the next,
/// outside of registers.
struct VisitsNothing : VisitsNone {
  __device__ __forceinline__ int thread() const {
    int thread = int(threadIdx.x);
    asm volatile("" : "+r"(thread));
    return thread;
  }
};

/// Runs: of A, the most of a warp and link; 0: no adapters.
template <int Bits, int Group, int Runs>
__device__ __forceinline__ void run_chain(const ChainArgs& c) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) uint8_t shared[];
  using Shape = LinkShape<Bits, Group>;
  launch_dependents();
  const int warp = int(threadIdx.x / 32);
  const uint32_t lane = threadIdx.x % 32;
  ChainGates& gates = *reinterpret_cast<ChainGates*>(shared + c.shared.gates);
  ChainLora& lora = *reinterpret_cast<ChainLora*>(shared + c.shared.lora);
  if (threadIdx.x == 0) {
    for (int i = 0; i < c.shared.depth; ++i) gate_init(gates.full + i, 1), gate_init(gates.empty + i, kConsumers);
    if constexpr (Runs > 0) init_gates(lora);
    gates.waits = 0;
    gates_ready();
  }
  __syncthreads();
  if constexpr (Runs > 0)
    if (warp > kConsumers + 1) return adapt_chain(c, lora, lane);
  if (warp > kConsumers) {
    if (lane == 0) copy_chain<Shape>(c, shared, gates);
    return;
  }
  float* partials = reinterpret_cast<float*>(shared + c.shared.partials);
  volatile int32_t* waits = &gates.waits;
  RingPlace ring;
  int formed = 0;
#pragma unroll 1
  for (int l = 0; l < c.links; ++l) {
    const ChainLink& link = c.link[l];
    const ProductArgs& a = link.args;
    const RoundTarget to = {shared + c.shared.digits, reinterpret_cast<StepGroup*>(shared + c.shared.steps), 2, 0};
    const RoundWork work = {a.input, a.in, 0, false, a.slabs * Shape::kWidth * (kStageInputs / 32)};
    const WaitsForLink wait = {l > 0 ? c.arrived + (l - 1) * kCounterApart : nullptr, waits, warp, lane};
    if constexpr (Runs > 0) {
      const RunsOfWarp<Runs> own = take_runs<Runs>(a, lora, l, warp, lane);
      round_one<kWorkingThreads>(work, to, partials, own, [&] {
        wait();
        own.begin();
      });
    } else {
      round_one<kWorkingThreads>(work, to, partials, VisitsNothing{}, wait);
    }
    barrier_sync<kWorkersBarrier>(kWorkingThreads);
    if (warp < kConsumers) {
      multiply_link<Bits, Group>(c, link, shared, gates, ring, warp, lane);
      continue;
    }
    if (lane == 0) *waits = 0;
    ChainLora* some = nullptr;
    if constexpr (Runs > 0) some = begin_changes(a, lora, l, lane) ? &lora : nullptr;
    finish_link<(Runs > 0)>(link, partials, some, formed, lane);
    __syncwarp();
    if (l + 1 < c.links && lane == 0) raise_counter(c.arrived + l * kCounterApart);
  }
  if (warp == kConsumers && lane == 0) {  // this block has seen all there was to wait for
    *waits = -1;
    uint32_t* left = c.arrived + (kMostLinks - 1) * kCounterApart;
    if (atomicAdd(left, 1u) + 1 == gridDim.x)
      for (int i = 0; i < kMostLinks; ++i) c.arrived[i * kCounterApart] = 0;
  }
#endif
}

/// So few registers that a block of attention finds room beside: of ten or eleven warps and those of attention a
/// quarter of a multiprocessor has three, and one of attend_mma.cuh or two of the others.
template <int Bits, int Group, int Runs, int Registers>
__global__ void __maxnreg__(Registers) chain_kernel(const __grid_constant__ ChainArgs c) {
  run_chain<Bits, Group, Runs>(c);
}

}  // namespace bumblebee::cuda
