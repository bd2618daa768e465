// Adapters of products of many rows (matmul_wide.cuh), u = A x: eight blocks of a cluster share the inputs of 64 rows
// and all modules that have them, x as the product reads it. On tensor cores: x, f16, as two bf16 numbers that it is
// the sum of, factors of bf16. A row's sums have one order, whatever the others' slots are.
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/matmul_wide.cuh"
#include "backend/cuda/kernels/mma.cuh"
#include "backend/cuda/kernels/wide_site.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kShares = 8;  // of the inputs: blocks of a cluster
constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kRound = 4;   // tiles of x that are in shared memory
constexpr int kOctets = 6;  // of ranks, that one pass over x multiplies
constexpr int kRowWarps = kBlockRows / 16;
[[maybe_unused]] constexpr int kTileWarps = kWarps / kRowWarps;  // not before sm_90
constexpr int kRoundColumns = kRound * kTileColumns, kFactorPitch = kRoundColumns + 8;
constexpr int kModules = kMaxTerms;

struct ShrinkArgs {
  WideInput x;
  WideAdapters* adapters;  // [blocks of rows][modules]
  uint8_t* u;              // [blocks of rows][modules][kTileBytes]
  int modules, octets;     // of ranks, of each slot
  bool logit_rows;
  int site[kModules];
};

/// Eight ranks of one slot's module.
struct ShrinkOctet {
  const __nv_bfloat16* a;  // its first rank's row; null: no factors
  int ranks;               // that exist
  float scale;
  int module, slot;  // slot: of those of the block's rows
};

struct ShrinkShared {
  union {
    struct {
      uint8_t tile[kRound][kTileBytes];
      __nv_bfloat16 factors[kOctets][kRankOctet][kFactorPitch];
    };
    float sums[kWarps][kOctets][kWarp][4];  // once all is multiplied
  };
  int row_slot[kModules][kBlockRows], row_index[kModules][kBlockRows], slots[kModules][kBlockRows], count[kModules],
      slot[kModules];
  ShrinkOctet octet[kOctets];
  uint64_t barrier;
};

#if BB_HAS_WGMMA

__device__ __forceinline__ float load_of_block(const float* at, uint32_t block) {
  float v;
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %1, %2;\nld.shared::cluster.f32 %0, [remote];\n}"
               : "=f"(v)
               : "r"(shared_address(at)), "r"(block)
               : "memory");
  return v;
}

/// Which slots the block's rows have at a module, of those whose factors are all that they add. Two warps.
__device__ __forceinline__ void find_slots(const ShrinkArgs& args, const BatchView& batch, ShrinkShared& s, int module,
                                           int first_row) {
  const int i = int(threadIdx.x) % kBlockRows, row = first_row + i;
  int slot = row < args.x.rows ? WideAdapters::kNone : WideAdapters::kNoRows;
  if (row < args.x.rows) {
    const int of = batch.slot[args.logit_rows ? batch.logit_rows[row] : row];
    const SiteView* site = site_of(*batch.slots, of, args.site[module]);
    if (site != nullptr && is_wide(*site)) slot = of;
  }
  s.row_slot[module][i] = slot;
}

/// Numbers the slots by their first rows. A warp for a module, a lane for a row of each half.
__device__ __forceinline__ void number_slots(ShrinkShared& s, int module, int lane) {
  const int low = s.row_slot[module][lane], high = s.row_slot[module][lane + kWarp];
  const uint32_t same_low = __match_any_sync(0xffffffffu, low), same_high = __match_any_sync(0xffffffffu, high);
  const uint32_t below = (1u << lane) - 1;
  int found = -1;  // the row of the first half that has the slot of `high`
#pragma unroll
  for (int j = 0; j < kWarp; ++j)
    if (__shfl_sync(0xffffffffu, low, j) == high && found < 0) found = j;
  const uint32_t first_low = __ballot_sync(0xffffffffu, low >= 0 && (same_low & below) == 0),
                 first_high = __ballot_sync(0xffffffffu, high >= 0 && (same_high & below) == 0 && found < 0);
  const int count_low = __popc(first_low);
  const auto index_of = [&](int leader) { return __popc(first_low & ((1u << leader) - 1)); };
  const int index_low = low < 0 ? -1 : index_of(__ffs(same_low) - 1);
  const int index_found = index_of(__ffs(__shfl_sync(0xffffffffu, same_low, max(found, 0))) - 1);
  const int index_high = high < 0     ? -1
                         : found >= 0 ? index_found
                                      : count_low + __popc(first_high & ((1u << (__ffs(same_high) - 1)) - 1));
  s.row_index[module][lane] = index_low, s.row_index[module][lane + kWarp] = index_high;
  if (first_low >> lane & 1) s.slots[module][index_low] = low;
  if (first_high >> lane & 1) s.slots[module][index_high] = high;
  // Rows that exist come first.
  const int one = __shfl_sync(0xffffffffu, low, 0);
  const auto differs = [&](int slot) { return slot != WideAdapters::kNoRows && slot != one; };
  const bool mixed = __any_sync(0xffffffffu, differs(low) || differs(high));
  if (lane == 0) s.count[module] = count_low + __popc(first_high), s.slot[module] = mixed ? WideAdapters::kMixed : one;
}

/// What products want to know.
__device__ __forceinline__ void write_adapters(const ShrinkArgs& args, const BatchView& batch, const ShrinkShared& s,
                                               int module, WideAdapters& to) {
  const int count = s.count[module], thread = int(threadIdx.x);
  if (thread < kBlockRows) to.of_row[thread] = s.row_index[module][thread];
  for (int i = thread; i < count * args.octets; i += kThreads) {
    const int which = i / args.octets, octet = i % args.octets;
    const SiteView& site = *site_of(*batch.slots, s.slots[module][which], args.site[module]);
    const RankPlace place = place_of_rank(site, octet * kRankOctet);
    if (octet == 0) to.slots[which] = s.slots[module][which];
    to.factor[which].b[octet] =
        place.term != nullptr ? static_cast<const __nv_bfloat16*>(place.term->b) + place.rank : nullptr;
    to.factor[which].pitch[octet] = place.term != nullptr ? padded_rank(place.term->rank) : 0;
  }
  if (thread != 0) return;
  to.slot = s.slot[module];
  to.count = count;
}

/// Two f16 numbers as pairs of bf16 whose sums they are, exactly.
__device__ __forceinline__ void split(uint32_t x, uint32_t& high, uint32_t& low) {
  const float2 v = __half22float2(reinterpret_cast<const __half2&>(x));
  const __nv_bfloat162 most = __floats2bfloat162_rn(v.x, v.y);
  const float2 back = __bfloat1622float2(most);
  const __nv_bfloat162 rest = __floats2bfloat162_rn(v.x - back.x, v.y - back.y);
  high = reinterpret_cast<const uint32_t&>(most), low = reinterpret_cast<const uint32_t&>(rest);
}

/// Factors of the columns from `first` on: what comes behind the last column or rank is zero.
__device__ __forceinline__ void copy_factors(ShrinkShared& s, const void* anywhere, int first, int in) {
  constexpr int kPieces = kRoundColumns / 8;
  for (int i = int(threadIdx.x); i < kOctets * kRankOctet * kPieces; i += kThreads) {
    const int piece = i % kPieces, rank = i / kPieces % kRankOctet, o = i / kPieces / kRankOctet,
              at = first + piece * 8;
    const ShrinkOctet& octet = s.octet[o];
    const bool there = rank < octet.ranks && at < in;
    copy_async_small<16>(shared_address(&s.factors[o][rank][piece * 8]),
                         there ? octet.a + size_t(rank) * size_t(in) + size_t(at) : anywhere, there ? 16 : 0);
  }
  copy_async_commit();
}

/// Tile `number` of those in shared memory times the octets of a pass, for sixteen rows: columns of x have the order of
/// matmul_wide's fragments.
__device__ __forceinline__ void multiply_tile(const ShrinkShared& s, int number, int row_warp, int lane,
                                              float (&c)[kOctets][4]) {
  const int g = lane / 4, t = lane % 4, row = row_warp * 16 + lane % 16;
#pragma unroll
  for (int span = 0; span < 2; ++span) {
    const int column = number / 2 * kPairColumns + t * 32 + (number % 2 * 2 + span) * 8;
    uint4 factors[kOctets];
#pragma unroll
    for (int o = 0; o < kOctets; ++o) factors[o] = *reinterpret_cast<const uint4*>(&s.factors[o][g][column]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int chunk = span * 4 + m * 2 + lane / 16;
      uint32_t x[4], high[4], low[4];
      load_matrices(x, shared_address(s.tile[number] + row * 128 + (chunk ^ (row % 8)) * 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) split(x[i], high[i], low[i]);
#pragma unroll
      for (int o = 0; o < kOctets; ++o) {
        const uint32_t first = m == 0 ? factors[o].x : factors[o].y, second = m == 0 ? factors[o].z : factors[o].w;
        const uint32_t b0 = __byte_perm(first, second, 0x5410), b1 = __byte_perm(first, second, 0x7632);
        multiply_bf16(c[o], high, b0, b1);
        multiply_bf16(c[o], low, b0, b1);
      }
    }
  }
}

#endif  // BB_HAS_WGMMA

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BB_SHRINK_CLUSTER
#else
#define BB_SHRINK_CLUSTER __cluster_dims__(kShares, 1, 1)
#endif

__global__ void BB_SHRINK_CLUSTER __launch_bounds__(kThreads)
    wide_shrink_kernel(const __grid_constant__ ShrinkArgs args, BatchView batch) {
#if BB_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  ShrinkShared& s = *reinterpret_cast<ShrinkShared*>(memory);
  const int thread = int(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int block = int(blockIdx.x) / kShares;
  const uint32_t rank = rank_in_cluster();
  const uint32_t barrier = shared_address(&s.barrier);
  if (thread == 0) {
    init_barrier(barrier, 1);
    fence_barriers();
  }
  launch_dependents();
  wait_for_inputs();
  const int tiles = tiles_of(args.x.in), pairs = tiles / 2;
  const int begin = int(rank) * pairs / kShares * 2, end = (int(rank) + 1) * pairs / kShares * 2;
  const uint8_t* const x = args.x.tiles + size_t(block) * size_t(tiles) * kTileBytes;
  const auto copy_x = [&](int from) {
    if (thread != 0 || from >= end) return;
    const uint32_t bytes = uint32_t(min(kRound, end - from) * kTileBytes);
    expect_bytes(barrier, bytes);
    copy_bulk(shared_address(s.tile[0]), x + size_t(from) * kTileBytes, bytes, barrier);
  };
  copy_x(begin);  // while slots are looked up
  for (int m = thread / kBlockRows; m < args.modules; m += kThreads / kBlockRows)
    find_slots(args, batch, s, m, block * kBlockRows);
  __syncthreads();
  if (warp < args.modules) number_slots(s, warp, lane);
  __syncthreads();
  if (rank == 0)
    for (int m = 0; m < args.modules; ++m)
      write_adapters(args, batch, s, m, args.adapters[size_t(block) * size_t(args.modules) + size_t(m)]);
  int total = 0, first_of[kModules + 1] = {};
#pragma unroll
  for (int m = 0; m < kModules; ++m) {
    total += m < args.modules ? s.count[m] * args.octets : 0;
    first_of[m + 1] = total;
  }
  const int row_warp = warp % kRowWarps, tile_warp = warp / kRowWarps;
  uint32_t parity = 0;
  for (int first = 0; first < total; first += kOctets) {
    if (thread < kOctets) {
      ShrinkOctet octet = {nullptr, 0, 0, 0, -1};
      if (const int i = first + thread; i < total) {
        while (i >= first_of[octet.module + 1]) ++octet.module;
        const int of_module = i - first_of[octet.module], place_of = of_module % args.octets * kRankOctet;
        octet.slot = of_module / args.octets;
        const SiteView& site = *site_of(*batch.slots, s.slots[octet.module][octet.slot], args.site[octet.module]);
        if (const RankPlace place = place_of_rank(site, place_of); place.term != nullptr) {
          octet.a = static_cast<const __nv_bfloat16*>(place.term->a) + size_t(place.rank) * size_t(args.x.in);
          octet.ranks = min(kRankOctet, place.term->rank - place.rank);
          octet.scale = place.term->scale;
        }
      }
      s.octet[thread] = octet;
    }
    float c[kOctets][4] = {};
    for (int from = begin; from < end; from += kRound) {
      __syncthreads();  // nobody reads the tiles any more, and the octets are known
      if (first > 0 || from > begin) copy_x(from);
      copy_factors(s, x, from * kTileColumns, args.x.in);
      wait_parity(barrier, parity);
      parity ^= 1;
      copy_async_wait<0>();
      __syncthreads();
      const int count = min(kRound, end - from);
#pragma unroll 1
      for (int i = tile_warp; i < count; i += kTileWarps) multiply_tile(s, i, row_warp, lane, c);
    }
    __syncthreads();
#pragma unroll
    for (int o = 0; o < kOctets; ++o)
      *reinterpret_cast<float4*>(s.sums[warp][o][lane]) = {c[o][0], c[o][1], c[o][2], c[o][3]};
    cluster_sync();
    // Each block has the sums of eight rows, whose halves of the tiles and whose shares are added in ascending order.
    constexpr int kOwn = kBlockRows / kShares;
    for (int i = thread; i < kOctets * kOwn * kRankOctet; i += kThreads) {
      const int o = i / (kOwn * kRankOctet), row = int(rank) * kOwn + i / kRankOctet % kOwn, r = i % kRankOctet;
      const ShrinkOctet& octet = s.octet[o];
      if (octet.slot < 0 || s.row_index[octet.module][row] != octet.slot) continue;
      // mma's c: rows g and g + 8, columns 2t and 2t + 1
      const int of_lane = row % 8 * 4 + r / 2, element = row % 16 / 8 * 2 + r % 2;
      float sum = 0;
      for (uint32_t share = 0; share < kShares; ++share)
        for (int half = 0; half < kTileWarps; ++half)
          sum += load_of_block(&s.sums[half * kRowWarps + row / 16][o][of_lane][element], share);
      const float u = sum * octet.scale;  // in units of the row's step, as x is
      const __nv_bfloat16 high = __float2bfloat16_rn(u), low = __float2bfloat16_rn(u - __bfloat162float(high));
      const int rank_of = (first + o - first_of[octet.module]) % args.octets * kRankOctet + r;
      const int column = rank_of / 16 * 32 + rank_of % 16;
      uint8_t* const tile = args.u + (size_t(block) * size_t(args.modules) + size_t(octet.module)) * kTileBytes;
      const auto at = [&](int col) {
        return reinterpret_cast<__nv_bfloat16*>(tile + row * 128 + ((col / 8) ^ (row % 8)) * 16 + col % 8 * 2);
      };
      *at(column) = high;
      *at(column + 16) = low;
    }
    fence_for_copies();  // x of the next octets is copied to where the sums were written
    cluster_sync();      // they are read, and nobody leaves before
  }
  if (total == 0 && begin < end) wait_parity(barrier, 0);  // nobody leaves before what was asked for has come
#else
  asm volatile("trap;");
#endif
}

}  // namespace

size_t wide_lora_bytes(int rows, int modules) {
  return size_t(wide_blocks(rows)) * size_t(modules) * (kTileBytes + sizeof(WideAdapters));
}

WideLora shrink_wide(const WideInput& x, const int* sites, int modules, int ranks, bool logit_rows, bool mixed,
                     void* workspace, const BatchView& batch, cudaStream_t stream) {
  uint8_t* const u = static_cast<uint8_t*>(workspace);
  const int blocks = wide_blocks(x.rows), sixteens = tiles_for(std::min(ranks, kWideRanks), 16);
  auto* const adapters = reinterpret_cast<WideAdapters*>(u + size_t(blocks) * size_t(modules) * kTileBytes);
  ShrinkArgs args = {.x = x,
                     .adapters = adapters,
                     .u = u,
                     .modules = modules,
                     .octets = sixteens * 2,
                     .logit_rows = logit_rows,
                     .site = {}};
  for (int m = 0; m < modules; ++m) args.site[m] = sites[m];
  allow_shared(wide_shrink_kernel, sizeof(ShrinkShared));
  launch_overlapping("lora_shrink", wide_shrink_kernel, {unsigned(blocks * kShares)}, {kThreads}, sizeof(ShrinkShared),
                     stream, args, batch);
  return {.tiles = u, .adapters = adapters, .modules = modules, .steps = sixteens * 2, .mixed = mixed};
}

}  // namespace bumblebee::cuda
