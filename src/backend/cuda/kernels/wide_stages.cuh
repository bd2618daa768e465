// x of products of many rows (matmul_wide.cuh): what a launch is told, and the stages in shared memory that one warp
// has filled.
#pragma once

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kernels/tensor_map.h"
#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

inline constexpr int kWarpgroups = 2, kGroupThreads = 128, kWideCluster = 2;
/// Two warpgroups multiply; a third copies, and leaves them its registers.
inline constexpr int kWideThreads = (kWarpgroups + 1) * kGroupThreads;
inline constexpr int kWideOut = kWarpgroups * 64;  // rows of W of a tile
inline constexpr int kInfoBytes = 32;              // of a stage
/// y leaves as boxes of 32 by 32 numbers, two for each pair of warps that share one.
inline constexpr int kBoxSide = 32, kBoxBytes = kBoxSide * kBoxSide * 4, kBoxPairs = kWarpgroups * 2;

struct WideTerm {
  WeightView weight;
  const float* bias;
  float* y;
  int first_tile;
  bool boxes, add;
};
struct WideArgs {
  const uint8_t* x;
  const float* steps;
  WideTerm term[kMaxTerms];
  int terms, rows, k_tiles, out_tiles, row_tiles;
  WideLora lora;
  ExpertTiles experts;  // of kernels of stacks, whose tiles have one chunk
};
struct WideMaps {
  TensorMap y[kMaxTerms];
};

/// Chunks: of 64 rows of x.
template <int Chunks>
struct WideShape {
  static constexpr int kRows = Chunks * kBlockRows;
  static constexpr int kStages = Chunks == 1 ? 12 : Chunks == 2 ? 8 : 6;  // what fits beside some of L1
  static constexpr int kStageBytes = Chunks * kTileBytes;
  static constexpr size_t kShared =
      size_t(kStages) * kStageBytes + 2 * kBoxPairs * kBoxBytes + kStages * (2 * 8 + kInfoBytes) + 1024;
};

#if BB_HAS_WGMMA

/// Stages and their barriers, as addresses in shared memory.
template <int Chunks>
struct WideRing {
  using Shape = WideShape<Chunks>;
  uint32_t tiles;

  __device__ __forceinline__ uint32_t tile(uint32_t stage) const { return tiles + stage * Shape::kStageBytes; }
  /// Box `which` (of two) of a pair of warps.
  __device__ __forceinline__ uint32_t box(int pair, int which) const {
    return tile(Shape::kStages) + uint32_t(pair * 2 + which) * kBoxBytes;
  }
  __device__ __forceinline__ uint32_t full(uint32_t stage) const { return box(kBoxPairs, 0) + stage * 8; }
  __device__ __forceinline__ uint32_t empty(uint32_t stage) const { return full(Shape::kStages) + stage * 8; }
  /// Of a stage with rows of B.
  __device__ __forceinline__ uint32_t info(uint32_t stage) const { return empty(Shape::kStages) + stage * kInfoBytes; }
  /// This warp has read a stage.
  __device__ __forceinline__ void release(uint32_t stage, int lane) const {
    if (lane < kWideCluster) arrive_at(empty(stage), uint32_t(lane));
  }
};

/// The term that tile `out_tile` belongs to.
__device__ __forceinline__ int term_of(const WideArgs& args, int out_tile) {
  int which = 0;
  while (which + 1 < args.terms && out_tile >= args.term[which + 1].first_tile) ++which;
  return which;
}

/// The rows of x of a row tile, and the rows of W before those that multiply them.
struct TileRows {
  int first, end;         // of y
  uint32_t weights_from;  // of W
};
template <bool Experts, int Rows>
__device__ __forceinline__ TileRows rows_of(const WideArgs& args, const WeightView& w, int row_tile) {
  if constexpr (Experts) {
    const ExpertTile& tile = args.experts.tile[row_tile];
    return {tile.first, tile.first + tile.rows, uint32_t(tile.expert) * uint32_t(w.out)};
  } else {
    return {row_tile * Rows, args.rows, 0};
  }
}
template <bool Experts>
__device__ __forceinline__ int row_tiles_of(const WideArgs& args) {
  if constexpr (Experts)
    return *args.experts.count;
  else
    return args.row_tiles;
}

/// What all rows of a tile have of a module.
template <int Chunks>
__device__ __forceinline__ int slot_of_tile(const WideAdapters* adapters, int modules) {
  int all = WideAdapters::kNoRows;
#pragma unroll
  for (int c = 0; c < Chunks; ++c) {
    const int slot = __ldcg(&adapters[c * modules].slot);
    all = all == WideAdapters::kNoRows                   ? slot
          : slot == WideAdapters::kNoRows || slot == all ? all
                                                         : WideAdapters::kMixed;
  }
  return all;
}

/// What a stage with rows of B says of them: the slot that all rows of the tile have, or what they have otherwise, and
/// where each octet of ranks begins: bytes from the stage, and from a row to the next in the upper half; 0: nowhere.
struct WideStageInfo {
  uint32_t slot, octet[kWideOctets], spare[3];
};

/// B of a tile whose rows of x have one slot.
struct RanksOfTile {
  int slot;
  const __nv_bfloat16* b[kWideOctets];  // WideFactor's
  uint32_t pitch[kWideOctets];          // bytes
};
/// Loads that wait for nothing are issued together.
template <int Chunks>
__device__ __forceinline__ RanksOfTile find_ranks(const WideAdapters* adapters, const WideLora& lora, int rows) {
  RanksOfTile r;
#pragma unroll
  for (int o = 0; o < kWideOctets; ++o) {
    const WideFactor& factor = adapters->factor[0];
    const bool there = o < lora.steps;
    r.b[o] = nullptr, r.pitch[o] = 0;
    if (!there) continue;
    r.b[o] = reinterpret_cast<const __nv_bfloat16*>(__ldcg(reinterpret_cast<const unsigned long long*>(&factor.b[o])));
    r.pitch[o] = uint32_t(__ldcg(&factor.pitch[o])) * 2;
  }
  r.slot = slot_of_tile<Chunks>(adapters, lora.modules);
  if (rows <= 0) r.slot = int(WideAdapters::kNone);
  return r;
}
/// Asks for `rows` rows of B, those of the tile's rows of W from `first` on, if all rows of x have one slot.
template <int Chunks>
__device__ __forceinline__ void fill_ranks(const WideRing<Chunks>& ring, uint32_t stage, const RanksOfTile& ranks,
                                           int steps, int first, int rows) {
  const uint32_t info = ring.info(stage), to = ring.tile(stage);
  store_shared(info, uint32_t(ranks.slot));
  const auto follows = [&](int o) {
    return o > 0 && ranks.b[o] != nullptr && ranks.b[o] == ranks.b[o - 1] + kRankOctet;
  };
  uint32_t bytes = 0, place = 0;
  const bool some = ranks.slot >= 0;
#pragma unroll
  for (int o = 0; o < kWideOctets; ++o) {
    if (!some || o >= steps) continue;
    if (follows(o))
      place += kRankOctet * 2;
    else
      place = bytes, bytes += ranks.b[o] != nullptr ? uint32_t(rows) * ranks.pitch[o] : 0;
    store_shared(info + 4 + uint32_t(o) * 4, ranks.b[o] != nullptr ? place | ranks.pitch[o] << 16 : 0u);
  }
  expect_bytes(ring.full(stage), bytes);
  bytes = 0;
#pragma unroll
  for (int o = 0; o < kWideOctets; ++o) {
    if (!some || o >= steps || ranks.b[o] == nullptr || follows(o)) continue;
    copy_bulk(to + bytes, reinterpret_cast<const char*>(ranks.b[o]) + size_t(first) * size_t(ranks.pitch[o]),
              uint32_t(rows) * ranks.pitch[o], ring.full(stage));
    bytes += uint32_t(rows) * ranks.pitch[o];
  }
}

/// What one warp does: asks for all stages of both blocks of the cluster, as they become free (each block asks for half
/// of every one, but for its own rows of B).
template <bool Experts, int Chunks>
__device__ __forceinline__ void fill_stages(const WideRing<Chunks>& ring, const WideArgs& args, int cluster,
                                            int clusters, int tiles) {
  using Shape = WideShape<Chunks>;
  const int row_tiles = row_tiles_of<Experts>(args);
  const uint32_t rank = rank_in_cluster();
  uint32_t stage = 0, parity = 1;  // nothing was in a stage before the first time
  const auto next = [&] {
    if (++stage == Shape::kStages) stage = 0, parity ^= 1;
  };
  const auto fill = [&](const uint8_t* from, size_t block_bytes) {
    const uint32_t barrier = ring.full(stage), to = ring.tile(stage);
    wait_parity(ring.empty(stage), parity);
    expect_bytes(barrier, Shape::kStageBytes);
    if constexpr (Chunks == 1) {
      const uint32_t half = rank * (kTileBytes / 2);
      copy_bulk_to(to + half, from + half, kTileBytes / 2, barrier, 3);
    } else {
#pragma unroll
      for (uint32_t c = 0; c < Chunks; c += kWideCluster)
        copy_bulk_to(to + (c + rank) * kTileBytes, from + (c + rank) * block_bytes, kTileBytes, barrier, 3);
    }
    next();
  };
  bool waited = !args.lora.follows;
  for (int tile = cluster; tile < tiles; tile += clusters) {
    const int first_block = tile % row_tiles * Chunks;
    const size_t block_bytes = size_t(args.k_tiles) * kTileBytes;
    const uint8_t* const from = args.x + size_t(first_block) * block_bytes;
    const bool adapts = !Experts && args.lora.tiles != nullptr;
    const int out_tile = tile / row_tiles * kWideCluster + int(rank), which = adapts ? term_of(args, out_tile) : 0;
    const int first = (out_tile - args.term[which].first_tile) * kWideOut,
              rows = min(kWideOut, args.term[which].weight.out - first);
    RanksOfTile ranks;  // looked up long before there is room for them
    const auto look_up = [&] {
      ranks = find_ranks<Chunks>(args.lora.adapters + size_t(first_block) * size_t(args.lora.modules) + size_t(which),
                                 args.lora, rows);
    };
    if (adapts && waited) look_up();
    for (int k = 0; k < args.k_tiles; ++k) {
      if (adapts && !waited && k == args.k_tiles / 2) {
        wait_for_inputs();
        waited = true;
        look_up();
      }
      fill(from + size_t(k) * kTileBytes, block_bytes);
    }
    if (!adapts) continue;
    wait_parity(ring.empty(stage), parity);
    fill_ranks<Chunks>(ring, stage, ranks, args.lora.steps, first, rows);
    next();
    const size_t u_bytes = size_t(args.lora.modules) * kTileBytes;
    fill(args.lora.tiles + size_t(first_block) * u_bytes + size_t(which) * kTileBytes, u_bytes);
  }
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
