// y = x·Wᵀ for many rows on sm_90a. W is the left side of the tensor cores, from registers: MLX's bytes go from memory
// to a lane, which makes exact f16 numbers of its codes in the order of the fragment. x is the right side, f16 in
// swizzled tiles that the copy engine brings; blocks of a cluster have different rows of W and share x. The sums of a
// group are promoted to f32 with its scale; biases meet the sums of x as one more product at the end. An element's sum
// has one order, whatever the tiles.
#pragma once

#include <algorithm>

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/matmul_wide.h"
#include "backend/cuda/kernels/unpack.h"
#include "backend/cuda/kernels/wgmma.cuh"

namespace bumblebee::cuda {

inline constexpr int kWarpgroups = 2, kGroupThreads = 128, kWideCluster = 2;
/// Two warpgroups multiply; a third copies, and leaves them its registers.
inline constexpr int kWideThreads = (kWarpgroups + 1) * kGroupThreads;
inline constexpr float kSumParts = 128;  // sums are kept as so many times less, within f16

struct WideTerm {
  WeightView weight;
  const float* bias;
  float* y;
  int first_tile;
};
struct WideArgs {
  const uint8_t* x;
  const float* steps;
  WideTerm term[kMaxTerms];
  int terms, rows, k_tiles, sum_tiles, out_tiles, row_tiles;
  int block_tiles;      // of a block of rows of x, those that are not read among them
  ExpertTiles experts;  // of kernels of stacks, whose tiles have one chunk
};

/// Blocks: groups of 64 rows of W of a warpgroup; Chunks: of 64 rows of x.
template <int Blocks, int Chunks>
struct WideShape {
  static constexpr int kOut = kWarpgroups * Blocks * 64, kRows = Chunks * kBlockRows;
  static constexpr int kStages = Chunks == 1 ? 12 : Chunks == 2 ? 8 : 6;  // what fits beside some of L1
  static constexpr int kStageBytes = Chunks * kTileBytes;
  static constexpr size_t kShared = size_t(kStages) * kStageBytes + 2 * kStages * 8 + 1024;
};

#if BB_HAS_WGMMA

/// One lane's codes of 64 columns of a row: octet `t` of both spans of 32. Raw words, so that loads need not be waited
/// for.
template <int Bits, Code Kind>
struct WideCodes {
  static constexpr int kWords = Bits == 2 || Bits == 4 ? 1 : 2;
  uint32_t word[2][kWords];

  /// Bytes from a span's start to the lane's first word, and from there to its second.
  static __device__ __forceinline__ uint32_t first_byte(int t) { return uint32_t(Bits * 8 * t / 32 * 4); }
  static __device__ __forceinline__ uint32_t second_byte(int t) {
    return uint32_t(min(Bits * 8 * t / 32 + 1, Bits - 1) * 4) - first_byte(t);
  }
  /// `at`: bytes from `codes` to the lane's first word; `next`: from a span to the one after it.
  __device__ __forceinline__ void load(const uint8_t* codes, uint32_t at, uint32_t next, int t) {
#pragma unroll
    for (uint32_t b = 0; b < 2; ++b) {
      word[b][0] = load_word(codes + (at + b * next));
      if constexpr (kWords == 2) word[b][1] = load_word(codes + (at + b * next + second_byte(t)));
    }
  }
  /// Fragments of four k16 steps: registers `half` (row g or g + 8) and `half` + 2 of each.
  __device__ __forceinline__ void fragments(uint32_t (&a)[4][4], int half, int t) const {
    const __half2 less = __float2half2_rn(-1024.0f);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      if constexpr (Kind == Code::e2m1) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          a[2 * b + m][half] = whole(halves_of<Kind>(word[b][0] >> (8 * m)));
          a[2 * b + m][half + 2] = whole(halves_of<Kind>(word[b][0] >> (8 * m + 4)));
        }
      } else if constexpr (Bits == 4) {
        const __half2 sixteenth = __float2half2_rn(0.0625f), less64 = __float2half2_rn(-64.0f);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t w = word[b][0] >> (8 * m);
          a[2 * b + m][half] = sum(pick_or<0x000f000fu>(w, 0x64006400u), less);
          const uint32_t high = pick_or<0x00f000f0u>(w, 0x64006400u);  // 1024 + 16 codes
          const __half2 v = __hfma2(reinterpret_cast<const __half2&>(high), sixteenth, less64);
          a[2 * b + m][half + 2] = reinterpret_cast<const uint32_t&>(v);
        }
      } else {
        const int shift = Bits * 8 * t % 32;
        const uint32_t second = kWords == 2 ? word[b][kWords - 1] : 0;
        const Octet octet = unpack_octet<Bits>(funnel(word[b][0], second, shift), Bits == 8 ? second : second >> shift);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t pick = m == 0 ? 0x4240u : 0x4341u;
          a[2 * b + m][half] = sum(__byte_perm(octet.even, 0x64646464u, pick), less);
          a[2 * b + m][half + 2] = sum(__byte_perm(octet.odd, 0x64646464u, pick), less);
        }
      }
    }
  }

 private:
  /// Where it stands, and not where it is first needed: a tile ahead of that.
  static __device__ __forceinline__ uint32_t load_word(const uint8_t* at) {
    uint32_t word;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(word) : "l"(at));
    return word;
  }
  /// (a & Mask) | b as one instruction.
  template <uint32_t Mask>
  static __device__ __forceinline__ uint32_t pick_or(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "n"(Mask), "r"(b));
    return d;
  }
  /// Float codes at their size.
  static __device__ __forceinline__ uint32_t whole(uint32_t a) {
    const __half2 v = __hmul2(reinterpret_cast<const __half2&>(a), __float2half2_rn(power_of(Code::e2m1)));
    return reinterpret_cast<const uint32_t&>(v);
  }
  static __device__ __forceinline__ uint32_t sum(uint32_t a, __half2 b) {
    const __half2 v = __hadd2(reinterpret_cast<const __half2&>(a), b);
    return reinterpret_cast<const uint32_t&>(v);
  }
};

__device__ __forceinline__ uint16_t load_raw(const void* p, uint32_t i) {
  uint16_t v;
  asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(v) : "l"(static_cast<const uint16_t*>(p) + i));
  return v;
}
__device__ __forceinline__ float widen16(uint16_t raw, bool bf16) {
  return bf16 ? __uint_as_float(uint32_t(raw) << 16) : __half2float(__ushort_as_half(raw));
}

/// Products of one fragment of W with all chunks of a stage, and their promotion.
template <int Chunks, int Spans>
__device__ __forceinline__ void multiply_promote(const uint32_t (&a)[4][4], uint32_t stage,
                                                 const float (&scale)[Spans][2], float (&acc)[Chunks][32]) {
  constexpr int kUnits = Chunks * Spans, kSteps = 4 / Spans;
  float part[2][32];
  const uint64_t tile = swizzled_tile(__shfl_sync(0xffffffffu, stage, 0));  // the same in all lanes
  const auto issue = [&](int unit) {
    const int span = unit / Chunks, chunk = unit % Chunks;
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int step = span * kSteps + s;
      wgmma(part[unit % 2], a[step], tile + uint64_t((chunk * kTileBytes + step * 32) >> 4), s > 0);
    }
    wgmma_commit();
  };
  issue(0);
  if constexpr (kUnits > 1) issue(1);
#pragma unroll
  for (int unit = 0; unit < kUnits; ++unit) {
    if (unit + 1 < kUnits)
      wgmma_wait<1>(part[unit % 2]);
    else
      wgmma_wait<0>(part[unit % 2]);
    const int span = unit / Chunks, chunk = unit % Chunks;
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[chunk][i] = fmaf(scale[span][i / 2 % 2], part[unit % 2][i], acc[chunk][i]);
    if (unit + 2 < kUnits) issue(unit + 2);
  }
}

/// Biases of a tile of sums as a fragment: columns 2i and 2i + 1 are the two parts of the sum of group i. They are f16
/// numbers of a power of two that is returned: the largest of the row's in this tile is between 1 and 2.
__device__ __forceinline__ float bias_fragment(uint32_t (&a)[4][4], int half, const void* biases, uint32_t first,
                                               int group, int groups, int t, bool bf16) {
  float b[8], most = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = group + i * 4 + t;
    b[i] = at < groups ? widen16(load_raw(biases, first + uint32_t(at)), bf16) : 0.0f;
    most = fmaxf(most, fabsf(b[i]));
  }
  most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
  most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
  const uint32_t power = min(max(__float_as_uint(most) & 0x7f800000u, 0x00800000u), 0x78000000u);
  const float inverse = __uint_as_float(0x7f000000u - power);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const __half2 pair = __half2half2(__float2half_rn(b[i] * inverse));
    a[i / 2][half + i % 2 * 2] = reinterpret_cast<const uint32_t&>(pair);
  }
  return __uint_as_float(power);
}

/// Stages and their barriers, as addresses in shared memory.
template <int Blocks, int Chunks>
struct WideRing {
  using Shape = WideShape<Blocks, Chunks>;
  uint32_t tiles;

  __device__ __forceinline__ uint32_t tile(uint32_t stage) const { return tiles + stage * Shape::kStageBytes; }
  __device__ __forceinline__ uint32_t full(uint32_t stage) const { return tile(Shape::kStages) + stage * 8; }
  __device__ __forceinline__ uint32_t empty(uint32_t stage) const { return full(Shape::kStages) + stage * 8; }
  /// This warp has read a stage.
  __device__ __forceinline__ void release(uint32_t stage, int lane) const {
    if (lane < kWideCluster) arrive_at(empty(stage), uint32_t(lane));
  }
};

/// The term that tile `out_tile` belongs to.
__device__ __forceinline__ const WideTerm& term_of(const WideArgs& args, int out_tile) {
  int which = 0;
  while (which + 1 < args.terms && out_tile >= args.term[which + 1].first_tile) ++which;
  return args.term[which];
}

/// The rows of x of a row tile, and the rows of W before those that multiply them.
struct WideRows {
  int first, end;         // of y
  uint32_t weights_from;  // of W
};
template <bool Experts, int Rows>
__device__ __forceinline__ WideRows rows_of(const WideArgs& args, const WeightView& w, int row_tile) {
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

/// What one warp does: asks for all stages of both blocks of the cluster, as they become free (each block asks for half
/// of every one), and brings the rows of W that go with them to L2 before lanes ask for them.
template <int Bits, bool Experts, int Blocks, int Chunks>
__device__ __forceinline__ void fill_stages(const WideRing<Blocks, Chunks>& ring, const WideArgs& args, int cluster,
                                            int clusters, int tiles, int lane) {
  using Shape = WideShape<Blocks, Chunks>;
  const int row_tiles = row_tiles_of<Experts>(args);
  constexpr uint32_t kLine = 128, kTileCodes = kTileColumns * Bits / 8;
  const uint32_t rank = rank_in_cluster();
  const int depth = args.k_tiles + args.sum_tiles;
  const size_t block_bytes = size_t(args.block_tiles) * kTileBytes;
  uint32_t stage = 0, parity = 1;  // nothing was in a stage before the first time
  for (int tile = cluster; tile < tiles; tile += clusters) {
    const uint8_t* from = args.x + size_t(tile % row_tiles * Chunks) * block_bytes;
    const int out_tile = tile / row_tiles * kWideCluster + int(rank);
    const WideTerm& term = term_of(args, out_tile);
    const WeightView& w = term.weight;
    const int before = int(rows_of<Experts, Shape::kRows>(args, w, tile % row_tiles).weights_from);
    const int from_row = (out_tile - term.first_tile) * Shape::kOut, first = before + from_row,
              end = before + min(from_row + Shape::kOut, w.out);
    for (int k = 0; k < depth; ++k, from += kTileBytes) {
      if (lane == 0) {
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
      }
      __syncwarp();
      const uint32_t at = uint32_t(k) * kTileCodes;
      if (k < args.k_tiles && at % kLine < kTileCodes)
        for (int row = first + lane; row < end; row += kWarp)
          prefetch_l2(w.codes + (uint32_t(row) * uint32_t(w.row_bytes) + at));
      if (k == 0)
        for (int row = first + lane; row < end; row += kWarp)
          prefetch_l2(static_cast<const uint16_t*>(w.scales) + uint32_t(row) * uint32_t(w.scale_row));
      if (++stage == Shape::kStages) stage = 0, parity ^= 1;
    }
  }
}

#endif  // BB_HAS_WGMMA

// Older cards, for which the kernel is empty, do not know the word.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BB_WIDE_CLUSTER
#else
#define BB_WIDE_CLUSTER __cluster_dims__(kWideCluster, 1, 1)
#endif

/// Grid: clusters of two blocks, as many as fit on the card; each takes tiles in turn. Experts: W is a stack, and a row
/// tile one of its tiles.
template <int Bits, int Spans, int Blocks, int Chunks, bool Experts = false, Code Kind = Code::uint>
__global__ void BB_WIDE_CLUSTER __launch_bounds__(kWideThreads, 1) wide_kernel(const __grid_constant__ WideArgs args) {
#if BB_HAS_WGMMA
  using Shape = WideShape<Blocks, Chunks>;
  extern __shared__ unsigned char memory[];
  const WideRing<Blocks, Chunks> ring = {(shared_address(memory) + 1023) / 1024 * 1024};
  const uint32_t rank = rank_in_cluster();
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      init_barrier(ring.full(uint32_t(s)), 1);
      init_barrier(ring.empty(uint32_t(s)), kWideCluster * kWarpgroups * kGroupThreads / kWarp);
    }
    fence_barriers();
  }
  cluster_sync();

  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const int clusters = int(gridDim.x) / kWideCluster, cluster = int(blockIdx.x) / kWideCluster;
  const int row_tiles = row_tiles_of<Experts>(args);
  const int tiles = (args.out_tiles + kWideCluster - 1) / kWideCluster * row_tiles;
  if (warp >= kWarpgroups * kGroupThreads / kWarp) {
    give_registers<24>();
    if (warp == kWarpgroups * kGroupThreads / kWarp)
      fill_stages<Bits, Experts>(ring, args, cluster, clusters, tiles, lane);
    __syncwarp();
    cluster_sync();
    return;
  }
  take_registers<240>();
  uint32_t stage = 0, parity = 0;
  const auto begin_stage = [&] { wait_parity(ring.full(stage), parity); };
  const auto end_stage = [&] {
    ring.release(stage, lane);
    if (++stage == Shape::kStages) stage = 0, parity ^= 1;
  };
  for (int tile = cluster; tile < tiles; tile += clusters) {
    const int out_tile = tile / row_tiles * kWideCluster + int(rank);
    const WideTerm& term = term_of(args, out_tile);
    const WeightView& w = term.weight;
    const WideRows rows = rows_of<Experts, Shape::kRows>(args, w, tile % row_tiles);
    const int n = (out_tile - term.first_tile) * Shape::kOut + warp / 4 * (Blocks * 64) + warp % 4 * 16 + g;
    const int groups = w.in / w.group, tile_shift = w.group == 128 ? 1 : 0;
    const bool bf16_scale = w.scale == Element::bf16, bf16_bias = w.bias == Element::bf16;
    // In the last tile the second span may be behind the row's end: then the first comes twice, and x is zero there.
    const bool half_tile = w.in % kTileColumns != 0;
    constexpr uint32_t kSpanBytes = 4 * Bits;

    float acc[Blocks][Chunks][32] = {};
    WideCodes<Bits, Kind> next[Blocks][2];
    uint16_t next_scale[Blocks][Spans][2];
    uint32_t codes_at[Blocks][2], group_at[Blocks][2];
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t row = rows.weights_from + uint32_t(min(n + b * 64 + h * 8, w.out - 1));  // beyond: not stored
        codes_at[b][h] = row * uint32_t(w.row_bytes) + WideCodes<Bits, Kind>::first_byte(t);
        group_at[b][h] = row * uint32_t(w.scale_row);
      }
    }
    const auto load = [&](int b, int k) {
      const uint32_t second = half_tile && k + 1 == args.k_tiles ? 0 : kSpanBytes;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        next[b][h].load(w.codes, codes_at[b][h] + uint32_t(k) * (2 * kSpanBytes), second, t);
#pragma unroll
        for (int s = 0; s < Spans; ++s) {
          const int group = Spans == 1 ? k >> tile_shift : second == 0 ? 2 * k : 2 * k + s;
          next_scale[b][s][h] = load_raw(w.scales, group_at[b][h] + uint32_t(group));
        }
      }
    };
#pragma unroll
    for (int b = 0; b < Blocks; ++b) load(b, 0);

    for (int k = 0; k < args.k_tiles; ++k) {
      begin_stage();
#pragma unroll
      for (int b = 0; b < Blocks; ++b) {
        uint32_t a[4][4];
        float scale[Spans][2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          next[b][h].fragments(a, h, t);
#pragma unroll
          for (int s = 0; s < Spans; ++s) scale[s][h] = widen16(next_scale[b][s][h], bf16_scale);
        }
        load(b, min(k + 1, args.k_tiles - 1));
        multiply_promote<Chunks, Spans>(a, ring.tile(stage), scale, acc[b]);
      }
      end_stage();
    }
    for (int k = 0; k < args.sum_tiles; ++k) {
      begin_stage();
#pragma unroll
      for (int b = 0; b < Blocks; ++b) {
        uint32_t a[4][4];
        float scale[1][2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          scale[0][h] = kSumParts * bias_fragment(a, h, w.biases, group_at[b][h], k * 32, groups, t, bf16_bias);
        }
        multiply_promote<Chunks, 1>(a, ring.tile(stage), scale, acc[b]);
      }
      end_stage();
    }

    const float* const steps = args.steps + tile % row_tiles * Shape::kRows;
#pragma unroll
    for (int c = 0; c < Chunks; ++c) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int of_tile = 2 * t + c * kBlockRows + j * 8, row = rows.first + of_tile;
        const float2 step = __ldg(reinterpret_cast<const float2*>(steps + of_tile));
#pragma unroll
        for (int b = 0; b < Blocks; ++b) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int out = n + b * 64 + h * 8;
            if (out >= w.out) continue;
            const float bias = term.bias != nullptr ? __ldg(term.bias + out) : 0.0f;
            float* const y = term.y + size_t(row) * size_t(w.out) + size_t(out);
            if (row < rows.end) *y = fmaf(acc[b][c][4 * j + 2 * h], step.x, bias);
            if (row + 1 < rows.end) y[w.out] = fmaf(acc[b][c][4 * j + 2 * h + 1], step.y, bias);
          }
        }
      }
    }
  }
  cluster_sync();  // nobody leaves while the other may still copy to it or arrive at its barriers
#else
  asm volatile("trap;");  // launched all the same, by a build for 9.0 without 9.0a: an error, and no numbers of nobody
#endif
}

/// Blocks of a launch: all that the card holds at once, in pairs.
inline int wide_grid() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "matmul");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "matmul");
  return count / kWideCluster * kWideCluster;
}

inline int tiles_for(int count, int size) { return (count + size - 1) / size; }

template <int Blocks>
int out_tiles_of(const ProductTerm* terms, int count) {
  int tiles = 0;
  for (int t = 0; t < count; ++t) tiles += tiles_for(terms[t].weight.out, kWarpgroups * Blocks * 64);
  return tiles;
}

template <int Bits, int Spans, int Blocks, int Chunks, bool Experts = false, Code Kind = Code::uint>
void run_wide(const WideInput& x, const ProductTerm* terms, int count, cudaStream_t stream,
              const ExpertTiles& experts = {}) {
  using Shape = WideShape<Blocks, Chunks>;
  WideArgs args = {.x = x.tiles,
                   .steps = x.steps,
                   .term = {},
                   .terms = count,
                   .rows = x.rows,
                   .k_tiles = tiles_of(x.in),
                   // Codes without biases need no sums.
                   .sum_tiles = Kind == Code::uint ? sum_tiles_of(x.in, x.group) : 0,
                   .out_tiles = 0,
                   .row_tiles = Experts ? experts.most : tiles_for(x.rows, Shape::kRows),
                   .block_tiles = tiles_of(x.in) + sum_tiles_of(x.in, x.group),
                   .experts = experts};
  for (int t = 0; t < count; ++t) {
    args.term[t] = {terms[t].weight, terms[t].bias, terms[t].y, args.out_tiles};
    args.out_tiles += tiles_for(terms[t].weight.out, Shape::kOut);
  }
  const int tiles = tiles_for(args.out_tiles, kWideCluster) * args.row_tiles;
  const auto kernel = wide_kernel<Bits, Spans, Blocks, Chunks, Experts, Kind>;
  allow_shared(kernel, Shape::kShared);
  launch("matmul", kernel, {unsigned(std::min(wide_grid(), tiles * kWideCluster))}, {kWideThreads}, Shape::kShared,
         stream, args);
}

}  // namespace bumblebee::cuda
