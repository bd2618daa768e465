// Adapters of products of many rows (matmul_wide.cuh), u = A x: eight blocks of a cluster share the inputs of 64 rows
// and all modules that have them, x as the product reads it. On tensor cores: x, f16, as two bf16 numbers that it is
// the sum of, factors of bf16. A row's sums have one order, whatever the others' slots are.
#include "backend/cuda/kernels/wide_shrink.cuh"

namespace bumblebee::cuda {
namespace {

using namespace shrink;

constexpr int kOctets = 6;  // of ranks, that one pass over x multiplies
using Shared = ShrinkShared<kOctets>;

__global__ void BB_SHRINK_CLUSTER __launch_bounds__(kThreads)
    wide_shrink_kernel(const __grid_constant__ ShrinkArgs args, BatchView batch) {
#if BB_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
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
  allow_shared(wide_shrink_kernel, sizeof(Shared));
  launch_overlapping("lora_shrink", wide_shrink_kernel, {unsigned(blocks * kShares)}, {kThreads}, sizeof(Shared),
                     stream, args, batch);
  return {.tiles = u, .adapters = adapters, .modules = modules, .steps = sixteens * 2, .mixed = mixed};
}

}  // namespace bumblebee::cuda
