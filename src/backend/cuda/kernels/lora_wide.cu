// Adapters of products of many rows (matmul_wide.cuh), u = A x: eight blocks of a cluster share the inputs of 64 rows
// and all modules that have them, x as the product reads it. On tensor cores: x, f16, as two bf16 numbers that it is
// the sum of, factors of bf16. A row's sums have one order, whatever the others' slots are. Slots are looked up and the
// first factors asked for before the wait, x and factors come through a ring.
#include "backend/cuda/kernels/wide_shrink.cuh"

namespace bumblebee::cuda {
namespace {

using namespace shrink;

constexpr int kMostOctets = 6;  // of ranks, that one pass over x multiplies
constexpr int kPairPitch = kPairColumns + 8;

/// Two tiles of x, and the factors of their columns.
template <int Octets>
struct PairStage {
  uint8_t tile[2][kTileBytes];
  __nv_bfloat16 factors[Octets][kRankOctet][kPairPitch];
};
template <int Octets>
struct WideShared {
  static constexpr int kStages = Octets > 4 ? 3 : 4;  // so that two blocks fit on a multiprocessor
  union {
    PairStage<Octets> stage[kStages];
    float sums[kWarps][Octets][kWarp][4];  // once all is multiplied
  };
  int row_slot[kModules][kBlockRows], row_index[kModules][kBlockRows], slots[kModules][kBlockRows], count[kModules],
      slot[kModules];
  ShrinkOctet octet[Octets];
  const void* b[Octets];  // WideFactor's, of the octets
  int32_t pitch[Octets];
  uint64_t full[kStages];
};

#if BB_HAS_WGMMA

/// What the octets of a pass are: of all slots of all modules, those from `first` on. A thread each.
template <int Octets>
__device__ __forceinline__ void find_octet(const ShrinkArgs& args, const BatchView& batch, WideShared<Octets>& s,
                                           const int (&first_of)[kModules + 1], int first) {
  const int thread = int(threadIdx.x);
  ShrinkOctet octet = {nullptr, 0, 0, 0, -1};
  const void* b = nullptr;
  int pitch = 0;
  if (const int i = first + thread; i < first_of[kModules]) {
    while (i >= first_of[octet.module + 1]) ++octet.module;
    const int of_module = i - first_of[octet.module];
    octet.slot = of_module / args.octets;
    const SiteView& site = *site_of(*batch.slots, s.slots[octet.module][octet.slot], args.site[octet.module]);
    if (const RankPlace place = place_of_rank(site, of_module % args.octets * kRankOctet); place.term != nullptr) {
      octet.a = static_cast<const __nv_bfloat16*>(place.term->a) + size_t(place.rank) * size_t(args.x.in);
      octet.ranks = min(kRankOctet, place.term->rank - place.rank);
      octet.scale = place.term->scale;
      b = static_cast<const __nv_bfloat16*>(place.term->b) + place.rank;
      pitch = padded_rank(place.term->rank);
    }
  }
  s.octet[thread] = octet, s.b[thread] = b, s.pitch[thread] = pitch;
}

/// Factors of a stage's columns, `at` on: what comes behind the last column or rank is zero.
template <int Octets>
__device__ __forceinline__ void copy_factors(const WideShared<Octets>& s, PairStage<Octets>& to, const void* anywhere,
                                             int at, int in) {
  constexpr int kPieces = kPairColumns / 8;
  static_assert(Octets * kRankOctet * kPieces % kThreads == 0);
#pragma unroll
  for (int k = 0; k < Octets * kRankOctet * kPieces / kThreads; ++k) {
    const int i = int(threadIdx.x) + k * kThreads;
    const int piece = i % kPieces, rank = i / kPieces % kRankOctet, o = i / kPieces / kRankOctet;
    const ShrinkOctet& octet = s.octet[o];
    const bool there = rank < octet.ranks && at + piece * 8 < in;
    copy_async_small<16>(shared_address(&to.factors[o][rank][piece * 8]),
                         there ? octet.a + size_t(rank) * size_t(in) + size_t(at + piece * 8) : anywhere,
                         there ? 16 : 0);
  }
}

#endif  // BB_HAS_WGMMA

template <int Octets>
__global__ void BB_SHRINK_CLUSTER __launch_bounds__(kThreads, 2)
    wide_shrink_kernel(const __grid_constant__ ShrinkArgs args, BatchView batch) {
#if BB_HAS_WGMMA
  constexpr int kStages = WideShared<Octets>::kStages;
  extern __shared__ __align__(1024) unsigned char memory[];
  WideShared<Octets>& s = *reinterpret_cast<WideShared<Octets>*>(memory);
  const int thread = int(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int block = int(blockIdx.x) / kShares;
  const uint32_t rank = rank_in_cluster();
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) init_barrier(shared_address(&s.full[i]), 1);
    fence_barriers();
  }
  for (int m = thread / kBlockRows; m < args.modules; m += kThreads / kBlockRows)
    find_slots(args, batch, s, m, block * kBlockRows);
  __syncthreads();
  if (warp < args.modules) number_slots(s, warp, lane);
  __syncthreads();
  int first_of[kModules + 1] = {};
#pragma unroll
  for (int m = 0; m < kModules; ++m) first_of[m + 1] = first_of[m] + (m < args.modules ? s.count[m] * args.octets : 0);
  const int total = first_of[kModules];
  if (thread < Octets) find_octet(args, batch, s, first_of, 0);
  __syncthreads();

  const int tiles = tiles_of(args.x.in), pairs = tiles / 2;
  const int begin = int(rank) * pairs / kShares, count = (int(rank) + 1) * pairs / kShares - begin;
  const uint8_t* const x = args.x.tiles + (size_t(block) * size_t(tiles) + size_t(begin) * 2) * kTileBytes;
  // `turn` counts stages of all passes.
  const auto ask_for_factors = [&](int turn, int pair) {
    copy_factors(s, s.stage[turn % kStages], x, (begin + pair) * kPairColumns, args.x.in);
  };
  const auto ask_for_x = [&](int turn, int pair) {
    if (thread != 0) return;
    const uint32_t barrier = shared_address(&s.full[turn % kStages]);
    expect_bytes(barrier, 2 * kTileBytes);
    copy_bulk(shared_address(s.stage[turn % kStages].tile[0]), x + size_t(pair) * 2 * kTileBytes, 2 * kTileBytes,
              barrier);
  };
  const auto wait_for_x = [] {
    wait_for_inputs();
    launch_dependents();  // so the product may read x from its first instruction on
  };
  const auto begin_pass = [&](int turn, bool waits) {
    for (int i = 0; i < kStages - 1; ++i) {
      if (i < count) ask_for_factors(turn + i, i);
      copy_async_commit();
    }
    if (waits) wait_for_x();
    for (int i = 0; i < min(kStages - 1, count); ++i) ask_for_x(turn + i, i);
  };
  if (total > 0)
    begin_pass(0, true);
  else
    wait_for_x();
  if (rank == 0) {
    for (int i = thread; i < args.modules * kBlockRows; i += kThreads) {
      const int m = i / kBlockRows, row = i % kBlockRows;
      WideAdapters& to = args.adapters[size_t(block) * size_t(args.modules) + size_t(m)];
      to.of_row[row] = s.row_index[m][row];
      if (row < s.count[m]) to.slots[row] = s.slots[m][row];
      if (row == 0) to.slot = s.slot[m], to.count = s.count[m];
    }
  }
  const int row_warp = warp % kRowWarps, tile_warp = warp / kRowWarps;
  int turn = 0;
  for (int first = 0; first < total; first += Octets) {
    if (first > 0) {
      if (thread < Octets) find_octet(args, batch, s, first_of, first);
      __syncthreads();
      begin_pass(turn, false);
    }
    float c[Octets][4] = {};
    for (int i = 0; i < count; ++i, ++turn) {
      copy_async_wait<kStages - 2>();
      wait_parity(shared_address(&s.full[turn % kStages]), uint32_t(turn / kStages & 1));
      __syncthreads();  // factors are there, and nobody reads the stage before
      if (i + kStages - 1 < count) {
        ask_for_factors(turn + kStages - 1, i + kStages - 1);
        ask_for_x(turn + kStages - 1, i + kStages - 1);
      }
      copy_async_commit();
      multiply_tile(s.stage[turn % kStages], tile_warp, row_warp, lane, c);
    }
    if (rank == 0 && thread < Octets && s.octet[thread].slot >= 0) {
      const ShrinkOctet& octet = s.octet[thread];
      WideFactor& to = args.adapters[size_t(block) * size_t(args.modules) + size_t(octet.module)].factor[octet.slot];
      const int place = (first + thread - first_of[octet.module]) % args.octets;
      to.b[place] = s.b[thread], to.pitch[place] = s.pitch[thread];
    }
    __syncthreads();
#pragma unroll
    for (int o = 0; o < Octets; ++o)
      *reinterpret_cast<float4*>(s.sums[warp][o][lane]) = {c[o][0], c[o][1], c[o][2], c[o][3]};
    cluster_sync();
    // Each block has the sums of eight rows, whose halves of the tiles and whose shares are added in ascending order.
    constexpr int kOwn = kBlockRows / kShares;
    for (int i = thread; i < Octets * kOwn * kRankOctet; i += kThreads) {
      const int o = i / (kOwn * kRankOctet), row = int(rank) * kOwn + i / kRankOctet % kOwn, r = i % kRankOctet;
      const ShrinkOctet& octet = s.octet[o];
      if (octet.slot < 0 || s.row_index[octet.module][row] != octet.slot) continue;
      // mma's c: rows g and g + 8, columns 2t and 2t + 1
      const int of_lane = row % 8 * 4 + r / 2, element = row % 16 / 8 * 2 + r % 2;
      float part[kShares][kTileWarps];
#pragma unroll
      for (uint32_t share = 0; share < kShares; ++share)
#pragma unroll
        for (int half = 0; half < kTileWarps; ++half)
          part[share][half] = load_of_block(&s.sums[half * kRowWarps + row / 16][o][of_lane][element], share);
      float sum = 0;
#pragma unroll
      for (int share = 0; share < kShares; ++share)
#pragma unroll
        for (int half = 0; half < kTileWarps; ++half) sum += part[share][half];
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
#else
  asm volatile("trap;");
#endif
}

template <int Octets>
void run_shrink(const ShrinkArgs& args, int blocks, const BatchView& batch, cudaStream_t stream) {
  constexpr size_t kBytes = sizeof(WideShared<Octets>);
  allow_shared(wide_shrink_kernel<Octets>, kBytes);
  launch_overlapping("lora_shrink", wide_shrink_kernel<Octets>, {unsigned(blocks * kShares)}, {kThreads}, kBytes,
                     stream, args, batch);
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
  const int octets = modules * args.octets;  // of one slot
  if (octets <= 2)
    run_shrink<2>(args, blocks, batch, stream);
  else if (octets <= 4)
    run_shrink<4>(args, blocks, batch, stream);
  else
    run_shrink<kMostOctets>(args, blocks, batch, stream);
  return {.tiles = u, .adapters = adapters, .modules = modules, .steps = sixteens * 2, .mixed = mixed};
}

}  // namespace bumblebee::cuda
