// y = x·Wᵀ for steps of 33 to 64 rows on sm_90a: x and left side as in matmul_wide.cuh, numbers of W nearly so
// (batch_codes.cuh), but bound by the bytes of W. Codes and scales come by tensor copies through a ring of shared
// memory that is deep, x through another; a tile is 64 outputs for each warpgroup. Inputs are cut into splits by shape
// alone; blocks of a tile exchange their sums through L2, each finishes some rows of x, and adds splits in ascending
// order.
#pragma once

#include "backend/cuda/kernels/batch_codes.cuh"
#include "backend/cuda/kernels/batch_slots.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

__device__ __forceinline__ void store_partial(float4* to, const float* v) {
  asm volatile("st.global.cg.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
               : "memory");
}
__device__ __forceinline__ float4 load_partial(const float4* from) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/// What one warp does: asks for W, and for B behind it.
template <int Groups, bool Adapts>
__device__ __forceinline__ void fill_weights(const BatchRing<Groups>& ring, const BatchArgs& args,
                                             const BatchMaps& maps, int lane) {
  const uint64_t policy = read_once_policy();
  Turn<BatchShape<Groups>::kSlabs> slab(1), come(0);
  Turn<kSpanSlots> span(1);
  int asked = 0;
  const auto wait_for_slab = [&] {
    wait_parity(ring.slab_empty(slab.at), slab.parity);
    if (++asked <= kSlabsAsked) return;
    wait_parity(ring.slab_full(come.at), come.parity);
    come.next();
  };
  const int items = args.tiles * args.splits;
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
    const int first_unit = item / args.splits * Groups;
    const BatchPart part = part_of(args, item % args.splits);
    const TileUnits<Groups> units(args, first_unit);
    for (int pair = part.first; pair < part.end; pair += kSlabColumns / kPairColumns) {
      if (pair % kSpanPairs == 0) {
        wait_parity(ring.span_empty(span.at), span.parity);
        if (lane == 0) {
          const uint32_t barrier = ring.span_full(span.at), to = ring.span(span.at);
          const int group = pair * (kPairColumns / 64);
          expect_bytes(barrier, Groups * 2 * kSpanBytes);
          copy_units(args, maps.scales, units, group, to, 2 * kSpanBytes, kSpanBytes / 2, barrier, policy);
          copy_units(args, maps.biases, units, group, to + kSpanBytes, 2 * kSpanBytes, kSpanBytes / 2, barrier, policy);
        }
        span.next();
      }
      wait_for_slab();
      if (lane == 0) {
        const uint32_t barrier = ring.slab_full(slab.at);
        expect_bytes(barrier, Groups * kSlabBytes);
        // Maps have elements of two bytes, four codes.
        copy_units(args, maps.codes, units, pair * (kPairColumns / 4), ring.slab(slab.at), kSlabBytes, kSlabBytes / 2,
                   barrier, policy);
      }
      slab.next();
    }
    if constexpr (Adapts) {
      if (item % args.splits != 0) continue;
      wait_for_inputs();
      for_stages<Groups>(args, first_unit, [&](int module, int stage) {
        wait_for_slab();
        fill_slots(ring, slab.at, args, module, stage, units, lane);
        slab.next();
      });
    }
  }
}

/// What one thread does: asks for x, and for u behind it.
template <int Groups, bool Adapts>
__device__ __forceinline__ void fill_rows(const BatchRing<Groups>& ring, const BatchArgs& args) {
  wait_for_inputs();
  Turn<kPairSlots> pair(1);
  const auto fill = [&](const uint8_t* from) {
    wait_parity(ring.pair_empty(pair.at), pair.parity);
    expect_bytes(ring.pair_full(pair.at), kPairBytes);
    copy_bulk(ring.pair(pair.at), from, kPairBytes, ring.pair_full(pair.at));
    pair.next();
  };
  const int items = args.tiles * args.splits;
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
    const BatchPart part = part_of(args, item % args.splits);
    for (int i = part.first; i < part.end; ++i) fill(args.x + size_t(i) * kPairBytes);
    if constexpr (Adapts) {
      if (item % args.splits != 0) continue;
      for_stages<Groups>(args, item / args.splits * Groups, [&](int module, int stage) {
        fill(args.lora.tiles + (size_t(module) * size_t(args.lora.stages) + size_t(stage)) * kPairBytes);
      });
    }
  }
}

#endif  // BB_HAS_WGMMA

/// Grid: as many blocks as the card holds at once. An item is a split of a tile; those of a tile follow each other.
template <int Groups, bool Bf16, bool Adapts>
__global__ void __launch_bounds__(BatchShape<Groups>::kThreads, 1)
    batch_kernel(const __grid_constant__ BatchArgs args, const __grid_constant__ BatchMaps maps) {
#if BB_HAS_WGMMA
  using Shape = BatchShape<Groups>;
  extern __shared__ unsigned char memory[];
  const BatchRing<Groups> ring = {(shared_address(memory) + 1023) / 1024 * 1024};
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  if (threadIdx.x == 0) ring.init();
  launch_dependents();
  __syncthreads();
  constexpr int kWarps = Groups * kGroupThreads / kWarp;
  if (warp >= kWarps) {
    give_registers<40>();
    if (warp == kWarps) fill_weights<Groups, Adapts>(ring, args, maps, lane);
    if (warp == kWarps + 1 && lane == 0) fill_rows<Groups, Adapts>(ring, args);
    return;
  }
  take_registers<Shape::kRegisters>();
  const int items = args.tiles * args.splits, group = warp / 4, g = lane / 4, t = lane % 4;
  const bool paired = args.paired;
  // The lane's row of a unit, and how far behind it the other one lies. Lanes whose words are read together have rows
  // of eight that are four apart: so they have all banks.
  const int own = warp % 4 * (paired ? 8 : 16) + g / 2 + g % 2 * 4, further = paired ? kHalfUnit : 8;
  const uint32_t codes_at = uint32_t(group) * kSlabBytes + uint32_t(own) * 128 + uint32_t((t ^ (own % 8)) * 16),
                 scales_at = uint32_t(group) * (2 * kSpanBytes) + uint32_t(own) * 32;
  const uint32_t pick = t < 2 ? 0x1044u : 0x3244u;  // one of two 16-bit numbers, behind 16 zeros
  Turn<Shape::kSlabs> slab(0);
  Turn<kSpanSlots> span(0);
  Turn<kPairSlots> pair(0);
  const auto release = [&](uint32_t barrier) {
    __syncwarp();  // all lanes have read
    if (lane == 0) arrive(barrier);
  };
  float inverse[2];
  int which = 0, n = 0;  // the term, and the lane's first output of it
  const auto begin = [&](int item) {
    const int unit = item / args.splits * Groups + group;
    which = term_of_unit(args, unit);
    const BatchTerm& term = args.term[which];
    n = (unit - term.first_unit) * (paired ? kHalfUnit : kBatchUnit) + own;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* const units = paired ? args.term[h].units : term.units;
      const int row = min(paired ? n : n + h * 8, term.out - 1);
      inverse[h] = __uint_as_float(0x7f000000u - __float_as_uint(__ldg(units + row)));
    }
  };
  if (int(blockIdx.x) < items) begin(int(blockIdx.x));
  for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
    const int split = item % args.splits, first_unit = item / args.splits * Groups;
    const BatchPart part = part_of(args, split);
    float acc[kRowOctets * 4] = {};
    uint32_t a[2][4][4];
    uint32_t codes[2][2][4];  // [tiles of a pair][half][octet]
    uint2 scale_words[2], bias_words[2];
    BatchScale scale[2];
    const auto load = [&](int i) {  // a slab
      if (i % kSpanSlabs == 0) wait_parity(ring.span_full(span.at), span.parity);
      wait_parity(ring.slab_full(slab.at), slab.parity);
      const uint32_t from = ring.slab(slab.at) + codes_at;
      const uint32_t scales = ring.span(span.at) + scales_at + uint32_t(i % kSpanSlabs) * 8;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t rows = uint32_t(h * further);
        scale_words[h] = load_shared_8(scales + rows * 32);
        bias_words[h] = load_shared_8(scales + kSpanBytes + rows * 32);
        load_shared_16(codes[0][h], from + rows * 128);
        load_shared_16(codes[1][h], (from ^ 64) + rows * 128);
      }
    };
    const auto number_of = [&](uint32_t word) {
      const uint32_t at = __byte_perm(word, 0, pick);
      return Bf16 ? __uint_as_float(at) : __half2float(__ushort_as_half(uint16_t(at >> 16)));
    };
    const auto fragments = [&](int tile) {  // of the slab's four
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (tile % 2 == 0)
          scale[h].set(number_of(tile == 0 ? scale_words[h].x : scale_words[h].y) * inverse[h],
                       number_of(tile == 0 ? bias_words[h].x : bias_words[h].y) * inverse[h]);
        const uint32_t* const words = codes[tile / 2][h] + tile % 2 * 2;
        batch_fragments(a[tile % 2], words[0], words[1], h, scale[h]);
      }
    };
    /// Behind a slab's first fragments: all of it was read.
    const auto done = [&](int i, bool last) {
      release(ring.slab_empty(slab.at));
      slab.next();
      if (i % kSpanSlabs == kSpanSlabs - 1 || last) release(ring.span_empty(span.at)), span.next();
    };
    const int slabs = (part.end - part.first) / (kSlabColumns / kPairColumns);
    load(0);
    fragments(0);
    done(0, slabs == 1);
    if (item == int(blockIdx.x)) {
      wait_for_inputs();
      if (int(threadIdx.x) < kBatchRows) store_shared(ring.steps() + threadIdx.x * 4, __ldcg(args.steps + threadIdx.x));
      sync_threads_of(1, Groups * kGroupThreads);
    }
    uint32_t before = 0;  // the pair of tiles before
#pragma unroll 1
    for (int i = 0; i < slabs; ++i) {
      const bool more = i + 1 < slabs;
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        if (tile % 2 == 0) wait_parity(ring.pair_full(pair.at), pair.parity);
        if (tile == 3 && more) load(i + 1);
        const uint64_t x = swizzled_tile(ring.pair(pair.at) + uint32_t(tile % 2) * kTileBytes);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) wgmma<false>(acc, a[tile % 2][k], x + uint64_t(2 * k), true);
        wgmma_commit();
        wgmma_wait<1>();
        if (tile % 2 == 0 && (tile > 0 || i > 0)) release(ring.pair_empty(before));
        if (tile % 2 == 1) before = pair.at, pair.next();
        if (tile < 3) fragments(tile + 1);
      }
      if (more) {
        fragments(0);
        done(i + 1, i + 2 == slabs);
      }
    }

    const BatchTerm& term = args.term[which];
    const int out = term.out, own_term = which;
    const bool add = term.add, there[2] = {n < out, !paired && n + 8 < out};
    // The lane's first element: others are 8 outputs, one row and 8 rows of x further on.
    float* const y = term.y + size_t(2 * t) * size_t(out) + size_t(n);
    const float own_inverse[2] = {inverse[0], inverse[1]};
    float bias[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* const biases = paired ? args.term[h].bias : term.bias;
      bias[h] = biases != nullptr ? __ldg(biases + min(paired ? n : n + h * 8, out - 1)) : 0.0f;
    }
    if (item + int(gridDim.x) < items) begin(item + int(gridDim.x));
    wgmma_wait<0>();
    keep_order(acc);
    release(ring.pair_empty(before));
    if constexpr (Adapts) {
      if (split == 0) {
        const float smaller[2] = {own_inverse[0] * kBatchSmaller, own_inverse[1] * kBatchSmaller};
        for_stages<Groups>(args, first_unit, [&](int module, int stage) {
          wait_parity(ring.slab_full(slab.at), slab.parity);
          wait_parity(ring.pair_full(pair.at), pair.parity);
          const int rows[2] = {paired && module != 0 ? -1 : own, !paired ? own + 8 : module != 1 ? -1 : own};
          if (paired || module == own_term)
            add_slots(acc, ring.pair(pair.at), ring.slab(slab.at) + uint32_t(group) * kSlabBytes, ring.info(slab.at),
                      args.lora, module, stage, rows, smaller, t);
          release(ring.slab_empty(slab.at));
          release(ring.pair_empty(pair.at));
          slab.next();
          pair.next();
        });
      }
    }
    const auto place = [&](int j, int i) { return y + size_t(j * 8 + i % 2) * size_t(out) + size_t(i / 2 * 8); };
    const auto is_there = [&](int j, int i) { return there[i / 2] && j * 8 + 2 * t + i % 2 < args.rows; };
    const auto finish = [&](int j, float* v) {  // two rows of x, of each of the lane's outputs
      const uint2 raw = load_shared_8(ring.steps() + uint32_t(j * 8 + 2 * t) * 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float unit = __uint_as_float(0x7f000000u - __float_as_uint(own_inverse[i / 2]));
        v[i] = fmaf(v[i] * kBatchUnits * unit, __uint_as_float(i % 2 == 0 ? raw.x : raw.y), bias[i / 2]);
      }
      if (paired) v[0] = silu_times(v[0], v[2]), v[1] = silu_times(v[1], v[3]);
    };
    if (args.splits == 1) {
#pragma unroll
      for (int j = 0; j < kRowOctets; ++j) finish(j, acc + 4 * j);
      if (add) {
#pragma unroll
        for (int i = 0; i < kRowOctets * 4; ++i)
          if (is_there(i / 4, i % 4)) acc[i] += *place(i / 4, i % 4);
      }
#pragma unroll
      for (int i = 0; i < kRowOctets * 4; ++i)
        if (is_there(i / 4, i % 4)) *place(i / 4, i % 4) = acc[i];
      continue;
    }
    // Split s finishes its share of the octets of rows.
    constexpr int kAll = Groups * kGroupThreads, kMostOwn = kRowOctets / 2;
    const int begin_j = split * kRowOctets / args.splits, end_j = (split + 1) * kRowOctets / args.splits;
    const size_t tile = size_t(item / args.splits);
    float4* const parts = args.partials + tile * size_t(args.splits) * (kRowOctets * kAll) + threadIdx.x;
#pragma unroll
    for (int j = 0; j < kRowOctets; ++j) store_partial(parts + (split * kRowOctets + j) * kAll, acc + 4 * j);
    uint32_t* const counter = args.counters + tile * Groups + group;
    const bool counts = int(threadIdx.x) % kGroupThreads == 0;
    sync_threads_of(2 + group, kGroupThreads);
    if (counts) raise_counter(counter);
    float was[kMostOwn][4];
#pragma unroll
    for (int o = 0; o < kMostOwn; ++o)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        was[o][i] = add && begin_j + o < end_j && is_there(begin_j + o, i) ? *place(begin_j + o, i) : 0.0f;
    if (counts) wait_counter(counter, uint32_t(args.splits));
    sync_threads_of(2 + group, kGroupThreads);
#pragma unroll
    for (int o = 0; o < kMostOwn; ++o) {
      const int j = begin_j + o;
      if (j >= end_j) break;
      float sum[4] = {};
#pragma unroll 4
      for (int other = 0; other < args.splits; ++other) {
        const float4 v = load_partial(parts + (other * kRowOctets + j) * kAll);
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      }
      finish(j, sum);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (is_there(j, i)) *place(j, i) = add ? was[o][i] + sum[i] : sum[i];
    }
    // Whoever leaves last leaves it as it was.
    if (counts && atomicAdd(counter, 1) + 1 == uint32_t(2 * args.splits)) *counter = 0;
  }
#else
  asm volatile("trap;");
#endif
}

}  // namespace bumblebee::cuda
