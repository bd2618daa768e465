// The kernel of product_rows.h: eight warps multiply, one asks for weights, one for x, two finish.
#pragma once

#include "backend/cuda/kernels/product_rows_lora.cuh"
#include "backend/cuda/kernels/product_rows_multiply.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

/// The warp that asks for weights: it waits for nothing but empty slots.
__device__ __forceinline__ void fill_ring(const RowsArgs& a, const RowsMaps& maps, const RowsPlace& at, uint32_t ring,
                                          const RowsGates& gates) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  int slot = 0;
  uint32_t parity = 1;
  for (int section = 0; section < a.sections; ++section) {
    const int first = section * kSectionSlabs, end = min(first + kSectionSlabs, a.slabs);
    const int turns = turns_of(a, at, section);
    for (int turn = 0; turn < turns; ++turn) {
      const int tile = tile_of_turn(a, at, turn);
      const RowsHalf half[2] = {rows_half(a, tile, 0), rows_half(a, tile, 1)};
      for (int slab = first; slab < end; ++slab) {
        wait_parity(gates.empty(slot), parity);
        const uint32_t gate = gates.full(slot), codes = ring + uint32_t(slot * kRowsSlot);
        expect_bytes(gate, kRowsSlot);
        const int stage = slab * kMaxClasses + at.rank * kRowsClasses;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int term = half[h].term, row = half[h].row;
          copy_box_3d(codes + uint32_t(h * kRowsHalfCodes), maps.codes + term, row, stage, gate, policy);
          const uint32_t scales = codes + uint32_t(kRowsScalesAt + h * kRowsHalfScales);
          copy_box_2d(scales, maps.scales + term, stage * 8, row, gate, policy);
          copy_box_2d(scales + kRowsPlane, maps.biases + term, stage * 8, row, gate, policy);
        }
        if (++slot == a.depth) slot = 0, parity ^= 1;
      }
    }
  }
}

/// The warp that asks for x, section by section, of those from `begin` on and before `end`.
template <int Rows>
__device__ __forceinline__ void fill_inputs(const RowsArgs& a, const RowsPlace& at, uint32_t digits, uint32_t steps,
                                            const RowsGates& gates, int begin, int end) {
  constexpr int kStageDigits = 2 * row_tile(Rows), kStageSteps = stage_steps(Rows);
  wait_for_inputs();
  for (int section = begin; section < end; ++section) {
    const int which = section % a.inputs, turn = section / a.inputs;
    wait_parity(gates.input_empty(which), uint32_t(turn & 1) ^ 1u);
    int bytes = 0;
    for (int pass = 0; pass < 2; ++pass) {
      if (pass == 1) expect_bytes(gates.input(which), uint32_t(bytes));
      for (int s = 0; s < kSectionSlabs; ++s) {
        const int stage = (section * kSectionSlabs + s) * kMaxClasses + at.rank * kRowsClasses;
        const int count = max(0, min(kRowsClasses, a.stages - stage));
        if (count == 0) continue;
        bytes += count * (kStageDigits + kStageSteps);
        if (pass == 0) continue;
        const uint32_t place = uint32_t(which * kSectionSlabs + s) * kRowsClasses;
        copy_bulk(digits + place * kStageDigits, a.digits + size_t(stage) * kStageDigits,
                  uint32_t(count * kStageDigits), gates.input(which));
        copy_bulk(steps + place * kStageSteps, a.steps + size_t(stage) * kStageSteps, uint32_t(count * kStageSteps),
                  gates.input(which));
      }
    }
  }
}

/// A block's inputs of all rows, by the warps that multiply. Of the 256 threads that norm a row (row_norm.cuh) 64 have
/// inputs of one block only, those of two warps: what is added up here has the order that it has there.
template <int Rows, bool Norm>
__device__ __forceinline__ void round_own(const RowsArgs& a, const RowsPlace& at, const RowTarget<true>& to,
                                          float* squares, const RowsGates& gates, int warp, int lane) {
  constexpr int kItems = Rows * 2 / 8, kWarpsOfRow = kRoundThreads / 32;
  const int octets = a.in / 8, half = warp % 2, first = 64 * at.rank + 32 * half + lane;
  const auto octet_of = [&](int slab) { return slab * kRoundThreads + first; };
  const auto row_of = [&](int i) { return warp / 2 + 4 * i; };
  const auto there = [&](int i, int slab) { return row_of(i) < a.rows && octet_of(slab) < octets; };
  const auto load = [&](int i, int slab) {
    return there(i, slab) ? load_eight(a.input.x + size_t(row_of(i)) * size_t(a.in) + size_t(octet_of(slab)) * 8)
                          : Eight{};
  };
  Eight kept[kItems][2], norm[2];
  if constexpr (Norm) for_all<2>([&](int s) { norm[s] = norm_octet(a.input.norm, octet_of(s), octet_of(s) < octets); });
  wait_for_inputs();
  for_all<kItems>([&](int i) { for_all<2>([&](int s) { kept[i][s] = load(i, s); }); });
  float inverse[kItems];
  for_all<kItems>([&](int i) { inverse[i] = 1.0f; });
  if constexpr (Norm) {
    float sum[kItems];
    for_all<kItems>([&](int i) {
      sum[i] = 0.0f;
      for_all<2>([&](int s) { sum[i] = sum_squares(kept[i][s], sum[i]); });
    });
#pragma unroll 1
    for (int s = 2; s < a.slabs; ++s) for_all<kItems>([&](int i) { sum[i] = sum_squares(load(i, s), sum[i]); });
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2)
      for_all<kItems>([&](int i) { sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes); });
    if (lane < kRowsCluster) {
      const uint32_t own = shared_address(squares) + uint32_t(2 * at.rank + half) * 4;
      const uint32_t gate = address_in(gates.squares(), uint32_t(lane));
      for_all<kItems>([&](int i) {
        const uint32_t remote = address_in(own + uint32_t(row_of(i) * kWarpsOfRow * 4), uint32_t(lane));
        send(remote, sum[i], gate);
      });
    }
    wait_parity(gates.squares(), 0);
    for_all<kItems>([&](int i) { inverse[i] = inverse_rms(squares + row_of(i) * kWarpsOfRow, a.in, a.input.eps); });
  }
#pragma unroll 1
  for (int s0 = 0; s0 < a.slabs; s0 += 2) {
    if (s0 > 0) {
      for_all<kItems>([&](int i) { for_all<2>([&](int s) { kept[i][s] = load(i, s0 + s); }); });
      if constexpr (Norm)
        for_all<2>([&](int s) { norm[s] = norm_octet(a.input.norm, octet_of(s0 + s), octet_of(s0 + s) < octets); });
    }
    for_all<kItems>([&](int i) {
      if (row_of(i) >= a.rows) return;
      Eight x[2];
      OctetPlace place[2];
      for_all<2>([&](int s) {
        x[s] = kept[i][s];
        if constexpr (Norm) for_all<8>([&](int j) { x[s].v[j] = x[s].v[j] * inverse[i] * norm[s].v[j]; });
        place[s] = {octet_of(s0 + s), octet_of(s0 + s) < octets};
      });
      round_octets(x, row_of(i), false, to, place);
    });
  }
}

/// What a finishing warp does with its tiles: every one where there is one buffer of sums, else every other one.
template <int R, int Groups, bool Lora>
__device__ __forceinline__ void finish_rows(const RowsArgs& a, const RowsPlace& at, int own, uint32_t buffer,
                                            unsigned char* adapters, const RowsGates& gates, int lane) {
  constexpr int kSenders = 8 / Groups;
  const int g = lane / 4, t = lane % 4;
  const bool pairs = a.epilogue == ProductStage::Epilogue::silu_mul, adds = a.epilogue == ProductStage::Epilogue::add;
  uint32_t parity = 0;
  int left = 0;  // tiles of all sections
  for (int section = 0; section < a.sections; ++section)
    for (int turn = own; turn < turns_of(a, at, section); turn += a.buffers) ++left;
  RowsAdapters l = {};
  const auto ask_for = [&](int tile) {
    if (tile < a.tiles) ask_for_b(a, l, {rows_half(a, tile, 0), rows_half(a, tile, 1)}, at.rank, lane);
  };
  if constexpr (Lora) {
    l = open_adapters<R * Groups>(a, adapters, own, lane);
    ask_for(at.cluster + own * at.clusters);
  }
  wait_for_inputs();
  if constexpr (Lora) copy_u<R * Groups>(a, l, own, lane);
  for (int section = 0; section < a.sections; ++section) {
    const bool last = section + 1 == a.sections;
    const int turns = turns_of(a, at, section);
    for (int turn = own; turn < turns; turn += a.buffers) {
      const int tile = tile_of_turn(a, at, turn);
      const bool dealt = turn >= whole_turns(a, at);  // its other sections are other clusters'
      const RowsHalf half[2] = {rows_half(a, tile, 0), rows_half(a, tile, 1)};
      int out[2];
      bool there[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        out[h] = half[h].row + 8 * at.rank + g;
        there[h] = out[h] < a.term[half[h].term].out;
      }
      float bias[2] = {};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* of_term = a.term[half[h].term].bias;
        if (last && of_term != nullptr && there[h]) bias[h] = __ldg(of_term + out[h]);
      }
      if (Lora && last) ask_for(tile + a.buffers * at.clusters);
#pragma unroll 1
      for (int group = 0; group < Groups; ++group) {
        RowSums<R> more = {}, sum, change;
        if (Lora && last) change = form_changes<R>(a, l, half, out, there, group * R, t);
#pragma unroll
        for (int j = 0; j < R / 4; ++j) {
          const int row = group * R + 4 * j + t;
          if (!last || !adds || row >= a.rows) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h)
            if (there[h]) more.v[j][h] = __ldcg(a.residual + row * a.term[half[h].term].stride + out[h]);
        }
        if (group == 0) wait_parity(gates.sums(own), parity);
        const auto one = [&](int i) {
          return load_row_sums<R>(buffer + uint32_t((group * kSenders + i) * kRowSumBytes<R>), lane);
        };
        const auto four = [&](int i) { return (one(i) + one(i + 1)) + (one(i + 2) + one(i + 3)); };
        sum = kSenders == 8 ? four(0) + four(4) : four(0);
        __syncwarp();
        if (group + 1 == Groups && --left > 0) {  // who sent the last ones may be gone
          if (lane == 0) expect_bytes(gates.sums(own), rows_sum_bytes(R * Groups));
          __syncwarp();
          if (lane < kRowsCluster) arrive_at(gates.sums_empty(at.rank, own), uint32_t(lane));
        }
        if (a.sections > 1) {
          const auto kept_at = [&](int place) {
            return reinterpret_cast<float4*>(a.sums) +
                   (size_t(place) * kRowsCluster + size_t(at.rank)) * (Groups * R * 4) + size_t(group * R * 4 + lane);
          };
          const int item = at.cluster - section;  // of the tile's first section
          uint32_t* const arrived = a.arrived + (tile - a.whole) * kRowsCluster + at.rank;
          float4* const kept = kept_at(dealt ? a.tiles + item + section : tile);
          if (dealt && last) {
            if (lane == 0) {
              wait_counter(arrived, uint32_t(section));
              *arrived = 0;
            }
            __syncwarp();
          }
#pragma unroll
          for (int i = 0; i < R / 8; ++i) {
            float(&v)[R / 4][2] = sum.v;
            if (section > 0 && (last || !dealt)) {
              float4 before = __ldcg((dealt ? kept_at(a.tiles + item) : kept) + i * 32);
              for (int s = 1; dealt && s < section; ++s) {
                const float4 next = __ldcg(kept_at(a.tiles + item + s) + i * 32);
                before = {before.x + next.x, before.y + next.y, before.z + next.z, before.w + next.w};
              }
              v[2 * i][0] = before.x + v[2 * i][0], v[2 * i][1] = before.y + v[2 * i][1];
              v[2 * i + 1][0] = before.z + v[2 * i + 1][0], v[2 * i + 1][1] = before.w + v[2 * i + 1][1];
            }
            if (!last) __stcg(kept + i * 32, float4{v[2 * i][0], v[2 * i][1], v[2 * i + 1][0], v[2 * i + 1][1]});
          }
          if (!last) {
            __syncwarp();
            if (dealt && lane == 0) raise_counter(arrived);
            continue;
          }
        }
#pragma unroll
        for (int j = 0; j < R / 4; ++j) {
          const int row = group * R + 4 * j + t;
          if (row >= a.rows) continue;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if (!there[h] || (pairs && h == 1)) continue;
            float v = sum.v[j][h] + bias[h], other = sum.v[j][1] + bias[1];
            if (Lora) v += change.v[j][h], other += change.v[j][1];
            if (pairs)
              v = v / (1.0f + expf(-v)) * other;
            else
              v += more.v[j][h];
            const StageWeight& term = a.term[half[h].term];
            __stcg(term.y + row * term.stride + out[h], v);
          }
        }
      }
      parity ^= 1;
    }
  }
}

#endif  // BB_HAS_WGMMA

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BB_ROWS_CLUSTER
#else
#define BB_ROWS_CLUSTER __cluster_dims__(kRowsCluster, 1, 1)
#endif

/// R: rows of a warpgroup. Groups 1: each has a class of the block, 2: each has rows of its own. Lora: with adapters,
/// so that steps of the base run code that knows of none.
template <int R, int Groups, bool Bf16, bool Lora>
__global__ void BB_ROWS_CLUSTER __launch_bounds__(kRowsThreads, 1)
    rows_kernel(const __grid_constant__ RowsArgs a, const __grid_constant__ RowsMaps maps) {
#if BB_HAS_WGMMA
  constexpr int kRows = R * Groups, kStageDigits = 2 * row_tile(kRows), kStageSteps = stage_steps(kRows);
  extern __shared__ unsigned char memory[];
  const RowsPlan plan = rows_plan(kRows, a.depth, a.inputs, a.buffers, Lora ? a.terms : 0, Lora ? a.u_pitch : 0);
  const uint32_t ring = (shared_address(memory) + 1023) / 1024 * 1024;
  const RowsGates gates = {ring + uint32_t(plan.gates)};
  const RowsPlace at = {int(rank_in_cluster()), int(blockIdx.x) / kRowsCluster, int(gridDim.x) / kRowsCluster};
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.depth; ++i) init_barrier(gates.full(i), 1), init_barrier(gates.empty(i), kRowsGroups * 4);
    for (int i = 0; i < 2; ++i) {
      init_barrier(gates.input(i), 1), init_barrier(gates.input_empty(i), kRowsGroups * 4);
      init_barrier(gates.sums(i), 1);
      for (int block = 0; block < kRowsCluster; ++block) init_barrier(gates.sums_empty(block, i), 1);
    }
    init_barrier(gates.squares(), 1);
    fence_barriers();
    for (int i = 0; i < 2; ++i) expect_bytes(gates.sums(i), rows_sum_bytes(kRows));
    expect_bytes(gates.squares(), kRows * (kRoundThreads / 32) * sizeof(float));
  }
  launch_dependents();
  __syncthreads();
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
  const auto cluster_is_there = [] { asm volatile("barrier.cluster.wait;" ::: "memory"); };
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (warp >= kRowsGroups * 4) {
    give_registers<104>();
    const int what = warp - kRowsGroups * 4;
    if (what == 0 && lane == 0) fill_ring(a, maps, at, ring, gates);
    if (what == 1) {
      const auto fill = [&](int begin, int end) {
        if (lane == 0 && a.input.kind == StageInput::Kind::tiles)
          fill_inputs<kRows>(a, at, ring + uint32_t(plan.digits), ring + uint32_t(plan.steps), gates, begin, end);
      };
      if constexpr (Lora) {
        fill(0, 1);
        __syncwarp();
        ask_for_next_a(a, lane);
      }
      fill(Lora ? 1 : 0, a.sections);
    }
    __syncwarp();
    cluster_is_there();
    if (what >= 2 && what - 2 < a.buffers)
      finish_rows<R, Groups, Lora>(a, at, what - 2, ring + uint32_t(plan.sums + (what - 2) * rows_sum_bytes(kRows)),
                                   memory + (ring - shared_address(memory)) + plan.lora, gates, lane);
    return;
  }
  take_registers<200>();
  cluster_is_there();
  const int wg = warp / 4, w = warp % 4, g = lane / 4, t = lane % 4, row_group = Groups == 2 ? wg : 0;
  const int matrix = lane / 8, in_eight = lane % 8;
  const uint32_t own_codes =
      ring + uint32_t(matrix / 2 * kRowsHalfCodes + (8 * w + in_eight) * kColumnBytes + ((matrix % 2) ^ in_eight) * 16);
  const uint32_t own_scales = ring + uint32_t(kRowsScalesAt + (8 * w + g) * kRowsScaleRow);
  const uint32_t own_digits = __shfl_sync(0xffffffffu, ring + uint32_t(plan.digits + row_group * 2 * R * 128), 0);
  const uint32_t own_steps = ring + uint32_t(plan.steps + row_group * R * 8 + t * 16);
  const uint32_t sender = uint32_t(Groups == 2 ? wg * 4 + at.rank : at.rank * kRowsClasses + wg);
  uint32_t sums_of[2], gate_of[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t own = ring + uint32_t(plan.sums + i * rows_sum_bytes(kRows)) + sender * kRowSumBytes<R>;
    sums_of[i] = address_in(own + uint32_t(lane * 16), uint32_t(w));
    gate_of[i] = address_in(gates.sums(i), uint32_t(w));
  }
  constexpr bool kOwn = kRows <= kMostOwnRows && !Lora;
  if constexpr (kOwn) {
    if (a.input.kind != StageInput::Kind::tiles) {
      unsigned char* const own = memory + (ring - shared_address(memory));
      const RowTarget<true> to = {own + plan.digits, reinterpret_cast<float2*>(own + plan.steps), kRows, R, 0};
      float* const squares = reinterpret_cast<float*>(own + plan.squares);
      if (a.input.kind == StageInput::Kind::rms_norm)
        round_own<kRows, true>(a, at, to, squares, gates, warp, lane);
      else
        round_own<kRows, false>(a, at, to, squares, gates, warp, lane);
      fence_for_copies();
      sync_threads_of(1, kRowsGroups * 128);
    }
  }
  const bool rounded = !kOwn || a.input.kind == StageInput::Kind::tiles;
  int slot = 0;
  uint32_t parity = 0, sums_parity = 3;  // a bit for each buffer: both are empty
  for (int section = 0; section < a.sections; ++section) {
    const int slabs = min(kSectionSlabs, a.slabs - section * kSectionSlabs);
    const int which_input = section % a.inputs;
    if (rounded) wait_parity(gates.input(which_input), uint32_t(section / a.inputs & 1));
    int which = 0;
    const int turns = turns_of(a, at, section);
    for (int turn = 0; turn < turns; ++turn) {
      int of_slab[kSectionSlabs] = {slot, slot};
#pragma unroll
      for (int s = 0; s < kSectionSlabs; ++s) {
        if (s >= slabs) break;
        wait_parity(gates.full(slot), parity);
        of_slab[s] = slot;
        if (++slot == a.depth) slot = 0, parity ^= 1;
      }
      const auto of_class = [&](int c) {
        ClassView view;
#pragma unroll
        for (int s = 0; s < kSectionSlabs; ++s) {
          const uint32_t place = uint32_t((which_input * kSectionSlabs + s) * kRowsClasses + c);
          view.codes[s] = own_codes + uint32_t(of_slab[s] * kRowsSlot + c * kRowsColumn);
          view.scales[s] = own_scales + uint32_t(of_slab[s] * kRowsSlot + c * 8);
          view.tiles[s] = swizzled_tile(own_digits + place * kStageDigits);
          view.steps[s] = own_steps + place * kStageSteps;
        }
        const int stage = section * kSectionSlabs * kMaxClasses + at.rank * kRowsClasses + c;
        if (slabs == 2 && stage + kMaxClasses < a.stages) return class_sum<R, Groups, Bf16, 2>(view);
        if (stage < a.stages) return class_sum<R, Groups, Bf16, 1>(view);
        return RowSums<R>{};
      };
      RowSums<R> sum;
      if constexpr (Groups == 1) {
        sum = of_class(wg);
      } else {
        sum = of_class(0);
        sum = sum + of_class(1);
      }
      __syncwarp();
      if (lane < slabs) arrive_at(gates.empty(lane == 0 ? of_slab[0] : of_slab[1]), uint32_t(at.rank));
      wait_parity(gates.sums_empty(w, which), sums_parity >> which & 1);
      sums_parity ^= 1u << which;
      const uint32_t to = which == 0 ? sums_of[0] : sums_of[1], gate = which == 0 ? gate_of[0] : gate_of[1];
#pragma unroll
      for (int i = 0; i < R / 8; ++i)
        send(to + uint32_t(i * 512), {sum.v[2 * i][0], sum.v[2 * i][1], sum.v[2 * i + 1][0], sum.v[2 * i + 1][1]},
             gate);
      which = which + 1 == a.buffers ? 0 : which + 1;
    }
    __syncwarp();
    if (rounded && lane == 0) arrive_at(gates.input_empty(which_input), uint32_t(at.rank));
  }
  // What others send to a block it waits for, so nobody needs to stay for them.
#else
  asm volatile("trap;");
#endif
}

template <bool Bf16, bool Lora>
RowsKernel find_rows_kernel(const RowShape& shape) {
  if (shape.groups == 2) return shape.of_group == 24 ? rows_kernel<24, 2, Bf16, Lora> : rows_kernel<32, 2, Bf16, Lora>;
  switch (shape.of_group) {
    case 8: return rows_kernel<8, 1, Bf16, Lora>;
    case 16: return rows_kernel<16, 1, Bf16, Lora>;
    case 24: return rows_kernel<24, 1, Bf16, Lora>;
    default: return rows_kernel<32, 1, Bf16, Lora>;
  }
}

}  // namespace bumblebee::cuda
