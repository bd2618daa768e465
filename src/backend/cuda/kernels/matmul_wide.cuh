// y = x·Wᵀ for many rows on sm_90a. W is the left side of the tensor cores, from registers: MLX's bytes go from memory
// to a lane, which makes f16 numbers s·q + b of them, in units of a power of two for each row of W and rounded once, in
// the order of the fragment. x is the right side, f16 in swizzled tiles that the copy engine brings; blocks of a
// cluster have different rows of W and share x. Sums stay in the tensor cores' registers for all of K: an element's has
// one order, whatever the tiles. Adapters are one more tile: u = A x as two bf16 numbers, and B in place of W.
#pragma once

#include <algorithm>
#include <type_traits>

#include "backend/cuda/kernels/card.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/wide_codes.cuh"
#include "backend/cuda/kernels/wide_ranks.cuh"

namespace bumblebee::cuda {

// Older cards, for which the kernel is empty, do not know the word.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BB_WIDE_CLUSTER
#else
#define BB_WIDE_CLUSTER __cluster_dims__(kWideCluster, 1, 1)
#endif

/// What rows of a launch may have. Where each slot's B is taken in turn, a copy of a block's sums is needed: beside
/// those of 256 rows there are no registers for it.
enum class WideRowsHave { no_adapters, one_slot, any_slots };
constexpr bool has_mixed_tiles(int chunks) { return chunks < 4; }

/// Grid: clusters of two blocks, as many as fit on the card; each takes tiles in turn. Experts: W is a stack, and a row
/// tile one of its tiles.
template <int Bits, int Chunks, bool Experts, WideRowsHave Have, Code Kind>
__global__ void BB_WIDE_CLUSTER __launch_bounds__(kWideThreads, 1)
    wide_kernel(const __grid_constant__ WideArgs args, const __grid_constant__ WideMaps maps) {
#if BB_HAS_WGMMA
  using Shape = WideShape<Chunks>;
  constexpr bool kAdapts = Have != WideRowsHave::no_adapters;
  extern __shared__ unsigned char memory[];
  const WideRing<Chunks> ring = {(shared_address(memory) + 1023) / 1024 * 1024};
  const uint32_t rank = rank_in_cluster();
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      init_barrier(ring.full(uint32_t(s)), 1);
      init_barrier(ring.empty(uint32_t(s)), kWideCluster * kWarpgroups * kGroupThreads / kWarp);
    }
    fence_barriers();
  }
  launch_dependents();
  if (!kAdapts || !args.lora.follows) wait_for_inputs();  // else x is there, and those who ask for u wait
  cluster_sync();

  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const int clusters = int(gridDim.x) / kWideCluster, cluster = int(blockIdx.x) / kWideCluster;
  const int row_tiles = row_tiles_of<Experts>(args);
  const int tiles = (args.out_tiles + kWideCluster - 1) / kWideCluster * row_tiles;
  if (warp >= kWarpgroups * kGroupThreads / kWarp) {
    give_registers<40>();
    if (warp == kWarpgroups * kGroupThreads / kWarp && lane == 0)
      fill_stages<Experts>(ring, args, cluster, clusters, tiles);
    __syncwarp();
    cluster_sync();
    return;
  }
  take_registers<232>();
  const int box_pair = warp / 2, k_last = args.k_tiles - 1, blocks = args.k_tiles / 2;
  const bool stores = warp % 2 == 0 && lane == 0;
  uint32_t stage = 0, parity = 0;
  const auto next_stage = [&] {
    if (++stage == Shape::kStages) stage = 0, parity ^= 1;
  };
  const auto tile_at = [&] { return swizzled_tile(__shfl_sync(0xffffffffu, ring.tile(stage), 0)); };
  WideSource<Bits, Kind> source;
  int which = 0, n = 0;  // of the tile that is multiplied: the term, and the lane's first row of W
  const auto begin = [&](int tile) {
    const int out_tile = tile / row_tiles * kWideCluster + int(rank);
    which = term_of(args, out_tile);
    const WeightView& w = args.term[which].weight;
    n = (out_tile - args.term[which].first_tile) * kWideOut + warp / 4 * 64 + warp % 4 * 16 + g;
    source.begin(w, rows_of<Experts, Shape::kRows>(args, w, tile % row_tiles).weights_from, n, t);
  };
  if (cluster < tiles) begin(cluster);
  for (int tile = cluster; tile < tiles; tile += clusters) {
    float acc[Chunks * 32];
    uint32_t a[2][4][4];
    source.fragments(a[0], 0, 0, blocks, t);
    uint32_t before = 0;  // the stage of the tile before
    const auto multiply = [&](auto current, int k) {
      constexpr int kNow = decltype(current)::value, kNext = 1 - kNow;
      wait_parity(ring.full(stage), parity);
      const uint64_t x = tile_at();
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s) wgmma<false>(acc, a[kNow][s], x + uint64_t(2 * s), k > 0 || s > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (k > 0) ring.release(before, lane);
      before = stage;
      source.next.keep_order();
      if (kNext == 1 || k < k_last) source.fragments(a[kNext], kNext, (k + 1) / 2, blocks, t);
      next_stage();
    };
    for (int k = 0; k < k_last; k += 2) {
      multiply(std::integral_constant<int, 0>(), k);
      multiply(std::integral_constant<int, 1>(), k + 1);
    }
    [[maybe_unused]] int slot = WideAdapters::kNone;
    if constexpr (kAdapts) {
      wait_parity(ring.full(stage), parity);
      slot = int(load_shared(ring.info(stage)));
      WideRanks ranks;
      if (slot >= 0)
        ranks.load_stage(ring.tile(stage), ring.info(stage), args.lora.steps, warp * 16 + g, source.inverse, t);
      ring.release(stage, lane);
      next_stage();
      wait_parity(ring.full(stage), parity);
      if (slot >= 0) ranks.multiply(acc, tile_at(), args.lora.steps);
    }

    const WideTerm& term = args.term[which];
    const int out = term.weight.out, first_out = n - g - warp % 2 * 16;
    const TileRows rows = rows_of<Experts, Shape::kRows>(args, term.weight, tile % row_tiles);
    const float* const steps = args.steps + tile % row_tiles * Shape::kRows;
    float2 step[4], next_step[4];
    const auto load_steps = [&](int half) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        next_step[j] = __ldg(reinterpret_cast<const float2*>(steps + half * kBoxSide + 8 * j + 2 * t));
    };
    load_steps(0);
    float unit[2], bias[2], inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      inverse[h] = source.inverse[h];
      unit[h] = __uint_as_float(0x7f000000u - __float_as_uint(inverse[h]));
      bias[h] = term.bias != nullptr ? __ldg(term.bias + min(n + h * 8, out - 1)) : 0.0f;
    }
    const int own = n;
    const char* const map = reinterpret_cast<const char*>(&maps.y[which]);
    wgmma_wait<0>();
    keep_order(acc);
    ring.release(before, lane);
    if constexpr (kAdapts) {
      if (Have == WideRowsHave::any_slots && slot == WideAdapters::kMixed) {
        const size_t block = size_t(tile % row_tiles * Chunks) * size_t(args.lora.modules) + size_t(which);
        add_mixed<Chunks>(args.lora.adapters + block, args.lora, tile_at(), own, out, inverse, t, acc);
      }
      ring.release(stage, lane);
      next_stage();
    }
    if (tile + clusters < tiles) begin(tile + clusters);

#pragma unroll
    for (int c = 0; c < Chunks; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < 4; ++j) step[j] = next_step[j];
        if (2 * c + half + 1 < 2 * Chunks) load_steps(2 * c + half + 1);
        const int row0 = rows.first + c * kBlockRows + half * kBoxSide;
        const auto value = [&](int j, int h, int e) {
          const float sum = acc[c * 32 + half * 16 + 4 * j + 2 * h + e];
          return fmaf(sum * unit[h], e == 0 ? step[j].x : step[j].y, bias[h]);
        };
        if (!Experts && term.boxes) {
          const uint32_t box = ring.box(box_pair, half);
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int row = 2 * t + e;
              const uint32_t at = box + uint32_t(row * 128 + ((warp % 2 * 4 + 2 * h + g / 4) ^ row) * 16 + g % 4 * 4);
#pragma unroll
              for (int j = 0; j < 4; ++j) store_shared(at + uint32_t(j * 1024), value(j, h, e));
            }
          fence_for_copies();
          if (stores) wait_boxes_read<0>();  // of the other box, which comes next
          sync_threads_of(1 + box_pair, 2 * kWarp);
          if (stores && row0 < rows.end && first_out < out) {
            if (term.add)
              add_box(map, box, first_out, row0);
            else
              store_box(map, box, first_out, row0);
            commit_boxes();
          }
          continue;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int row = row0 + 8 * j + 2 * t + e;
              if (own + h * 8 >= out || row >= rows.end) continue;
              float* const y = term.y + size_t(row) * size_t(out) + size_t(own + h * 8);
              const float v = value(j, h, e);
              *y = term.add ? *y + v : v;
            }
      }
    }
  }
  if (stores) wait_boxes_read<0>();
  cluster_sync();  // nobody leaves while the other may still copy to it or arrive at its barriers
#else
  asm volatile("trap;");  // launched all the same, by a build for 9.0 without 9.0a: an error, and no numbers of nobody
#endif
}

/// Blocks of a launch: all that the card holds at once, in pairs.
inline int wide_grid() { return card_attribute<cudaDevAttrMultiProcessorCount>() / kWideCluster * kWideCluster; }

inline int tiles_for(int count, int size) { return (count + size - 1) / size; }

inline int out_tiles_of(const ProductTerm* terms, int count) {
  int tiles = 0;
  for (int t = 0; t < count; ++t) tiles += tiles_for(terms[t].weight.out, kWideOut);
  return tiles;
}

/// y as boxes, where it has the form that they want.
inline bool make_box_map(TensorMap& map, float* y, int rows, int out) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = tensor_map_encoder();
  if (encode == nullptr || out % 4 != 0 || reinterpret_cast<uintptr_t>(y) % 16 != 0) return false;
  const cuuint64_t size[2] = {cuuint64_t(out), cuuint64_t(rows)}, pitch[1] = {cuuint64_t(out) * sizeof(float)};
  const cuuint32_t box[2] = {kBoxSide, kBoxSide}, steps[2] = {1, 1};
  return encode(reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, y, size, pitch, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int Bits, int Chunks, bool Experts = false, Code Kind = Code::uint>
void run_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream, const WideLora& lora = {},
              const ExpertTiles& experts = {}) {
  using Shape = WideShape<Chunks>;
  WideArgs args = {.x = x.tiles,
                   .steps = x.steps,
                   .term = {},
                   .terms = count,
                   .rows = x.rows,
                   .k_tiles = tiles_of(x.in),
                   .out_tiles = 0,
                   .row_tiles = Experts ? experts.most : tiles_for(x.rows, Shape::kRows),
                   .lora = lora,
                   .experts = experts};
  WideMaps maps = {};
  for (int t = 0; t < count; ++t) {
    const ProductTerm& term = terms[t];
    const bool boxes = !Experts && make_box_map(maps.y[t], term.y, x.rows, term.weight.out);
    args.term[t] = {term.weight, term.bias, term.y, args.out_tiles, boxes, term.add};
    args.out_tiles += tiles_for(term.weight.out, kWideOut);
    // A tile of u is a module's, and blocks of a cluster share it: both have tiles of one term.
    if (lora.tiles != nullptr) args.out_tiles = tiles_for(args.out_tiles, kWideCluster) * kWideCluster;
  }
  const int tiles = tiles_for(args.out_tiles, kWideCluster) * args.row_tiles;
  auto kernel = wide_kernel<Bits, Chunks, Experts, WideRowsHave::no_adapters, Kind>;
  if constexpr (!Experts) {
    constexpr auto kSlots = has_mixed_tiles(Chunks) ? WideRowsHave::any_slots : WideRowsHave::one_slot;
    if (lora.tiles != nullptr) kernel = wide_kernel<Bits, Chunks, Experts, kSlots, Kind>;
  }
  allow_shared(kernel, Shape::kShared);
  launch_overlapping("matmul", kernel, {unsigned(std::min(wide_grid(), tiles * kWideCluster))}, {kWideThreads},
                     Shape::kShared, stream, args, maps);
}

}  // namespace bumblebee::cuda
