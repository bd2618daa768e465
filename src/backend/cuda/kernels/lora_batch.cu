// Adapters of products of batches (matmul_batch.cuh), u = A x of up to 64 rows: a cluster of eight blocks for each
// module and each stage of slots, as the product meets them, so that many slots are looked after at once. Rows of other
// slots are zero in a slot's columns: the product adds all slots one after the other. A row's sums have one order,
// whatever the others' slots are.
#include "backend/cuda/kernels/matmul_batch.h"
#include "backend/cuda/kernels/wide_shrink.cuh"

namespace bumblebee::cuda {
namespace {

using namespace shrink;

constexpr int kOctets = kBatchOctets;
using Shared = ShrinkShared<kOctets>;

/// Grid: clusters for the stages, modules.
__global__ void BB_SHRINK_CLUSTER __launch_bounds__(kThreads)
    batch_shrink_kernel(const __grid_constant__ ShrinkArgs args, BatchView batch, int stages) {
#if BB_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const int thread = int(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int stage = int(blockIdx.x) / kShares, m = int(blockIdx.y), slots = kOctets / args.octets;
  const uint32_t rank = rank_in_cluster(), barrier = shared_address(&s.barrier);
  if (thread == 0) {
    init_barrier(barrier, 1);
    fence_barriers();
  }
  launch_dependents();
  const int tiles = tiles_of(args.x.in), pairs = tiles / 2;
  const int begin = int(rank) * pairs / kShares * 2, end = (int(rank) + 1) * pairs / kShares * 2;
  const auto copy_x = [&](int from) {
    if (thread != 0 || from >= end) return;
    const uint32_t bytes = uint32_t(min(kRound, end - from) * kTileBytes);
    expect_bytes(barrier, bytes);
    copy_bulk(shared_address(s.tile[0]), args.x.tiles + size_t(from) * kTileBytes, bytes, barrier);
  };
  // What slots hold, and the first of their factors, while the kernel before runs.
  if (thread < kBlockRows) find_slots(args, batch, s, m, 0);
  __syncthreads();
  if (warp == 0) number_slots(s, m, lane);
  __syncthreads();
  const int first = stage * slots, count = min(s.count[m] - first, slots);
  if (thread < kOctets) {
    ShrinkOctet octet = {nullptr, 0, 0, m, -1};
    if (const int which = thread / args.octets; which < count) {
      octet.slot = first + which;
      const SiteView& site = *site_of(*batch.slots, s.slots[m][octet.slot], args.site[m]);
      if (const RankPlace place = place_of_rank(site, thread % args.octets * kRankOctet); place.term != nullptr) {
        octet.a = static_cast<const __nv_bfloat16*>(place.term->a) + size_t(place.rank) * size_t(args.x.in);
        octet.ranks = min(kRankOctet, place.term->rank - place.rank);
        octet.scale = place.term->scale;
      }
    }
    s.octet[thread] = octet;
  }
  __syncthreads();
  if (count > 0 && begin < end) copy_factors(s, args.x.tiles, begin * kTileColumns, args.x.in);
  wait_for_inputs();
  if (rank == 0 && stage == 0) write_adapters(args, batch, s, m, args.adapters[m]);
  if (count <= 0) return;  // all blocks of the cluster
  copy_x(begin);
  const int row_warp = warp % kRowWarps, tile_warp = warp / kRowWarps;
  uint32_t parity = 0;
  float c[kOctets][4] = {};
  for (int from = begin; from < end; from += kRound) {
    if (from > begin) {
      __syncthreads();  // nobody reads the tiles any more
      copy_x(from);
      copy_factors(s, args.x.tiles, from * kTileColumns, args.x.in);
    }
    wait_parity(barrier, parity);
    parity ^= 1;
    copy_async_wait<0>();
    __syncthreads();
    const int there = min(kRound, end - from);
#pragma unroll 1
    for (int i = tile_warp; i < there; i += kTileWarps) multiply_tile(s, i, row_warp, lane, c);
  }
  __syncthreads();
#pragma unroll
  for (int o = 0; o < kOctets; ++o)
    *reinterpret_cast<float4*>(s.sums[warp][o][lane]) = {c[o][0], c[o][1], c[o][2], c[o][3]};
  cluster_sync();
  // Each block has the sums of eight rows, whose halves of the tiles and whose shares are added in ascending order.
  constexpr int kOwn = kBlockRows / kShares;
  uint8_t* const to = args.u + (size_t(m) * size_t(stages) + size_t(stage)) * kPairBytes;
  for (int i = thread; i < kOctets * kOwn * kRankOctet; i += kThreads) {
    const int o = i / (kOwn * kRankOctet), row = int(rank) * kOwn + i / kRankOctet % kOwn, r = i % kRankOctet;
    const ShrinkOctet& octet = s.octet[o];
    float u = 0;
    if (octet.slot >= 0 && s.row_index[m][row] == octet.slot) {
      // mma's c: rows g and g + 8, columns 2t and 2t + 1
      const int of_lane = row % 8 * 4 + r / 2, element = row % 16 / 8 * 2 + r % 2;
      float sum = 0;
#pragma unroll
      for (uint32_t share = 0; share < kShares; ++share)
#pragma unroll
        for (int half = 0; half < kTileWarps; ++half)
          sum += load_of_block(&s.sums[half * kRowWarps + row / 16][o][of_lane][element], share);
      u = sum * octet.scale;  // in units of the row's step, as x is
    }
    const __nv_bfloat16 high = __float2bfloat16_rn(u), low = __float2bfloat16_rn(u - __bfloat162float(high));
    const int rank_of = o % args.octets * kRankOctet + r;
    const int column = o / args.octets * args.octets * 16 + rank_of / 16 * 32 + rank_of % 16;
    const auto at = [&](int col) {
      return reinterpret_cast<__nv_bfloat16*>(to + col / kTileColumns * kTileBytes + row * 128 +
                                              ((col % kTileColumns / 8) ^ (row % 8)) * 16 + col % 8 * 2);
    };
    *at(column) = high;
    *at(column + 16) = low;
  }
  cluster_sync();  // nobody leaves before its sums are read
#else
  asm volatile("trap;");
#endif
}

int stages_for(int rows, int octets) { return tiles_for(rows, kBatchOctets / octets); }

}  // namespace

size_t batch_lora_bytes(int rows, int modules) {
  return size_t(modules) * (size_t(stages_for(rows, kWideOctets)) * kPairBytes + sizeof(WideAdapters));
}

WideLora shrink_batch(const WideInput& x, const int* sites, int modules, int ranks, int slots, bool logit_rows,
                      void* workspace, const BatchView& batch, cudaStream_t stream) {
  uint8_t* const at = static_cast<uint8_t*>(workspace);
  const int octets = tiles_for(std::min(ranks, kWideRanks), 16) * 2;
  auto* const adapters = reinterpret_cast<WideAdapters*>(at);
  uint8_t* const u = at + size_t(modules) * sizeof(WideAdapters);
  const int stages = stages_for(std::min(slots, x.rows), octets);
  ShrinkArgs args = {
      .x = x, .adapters = adapters, .u = u, .modules = modules, .octets = octets, .logit_rows = logit_rows, .site = {}};
  for (int m = 0; m < modules; ++m) args.site[m] = sites[m];
  allow_shared(batch_shrink_kernel, sizeof(Shared));
  launch_overlapping("lora_shrink", batch_shrink_kernel, {unsigned(stages * kShares), unsigned(modules)}, {kThreads},
                     sizeof(Shared), stream, args, batch, stages);
  return {.tiles = u, .adapters = adapters, .modules = modules, .steps = octets, .mixed = false, .stages = stages};
}

}  // namespace bumblebee::cuda
