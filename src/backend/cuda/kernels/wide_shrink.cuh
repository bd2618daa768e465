// What forms u = A x for products of many rows and of batches (lora_wide.cu, lora_batch.cu): which slots 64 rows have,
// and x as it was rounded, times factors, on tensor cores. Eight blocks of a cluster share the inputs.
#pragma once

#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/matmul_wide.cuh"
#include "backend/cuda/kernels/mma.cuh"
#include "backend/cuda/kernels/wide_site.cuh"

namespace bumblebee::cuda::shrink {

inline constexpr int kShares = 8;  // of the inputs: blocks of a cluster
inline constexpr int kThreads = 256, kWarps = kThreads / kWarp;
inline constexpr int kRound = 4;  // tiles of x that are in shared memory
inline constexpr int kRowWarps = kBlockRows / 16;
inline constexpr int kTileWarps = kWarps / kRowWarps;
inline constexpr int kRoundColumns = kRound * kTileColumns, kFactorPitch = kRoundColumns + 8;
inline constexpr int kModules = kMaxTerms;

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

/// Octets: of ranks, that one pass over x multiplies.
template <int Octets>
struct ShrinkShared {
  union {
    struct {
      uint8_t tile[kRound][kTileBytes];
      __nv_bfloat16 factors[Octets][kRankOctet][kFactorPitch];
    };
    float sums[kWarps][Octets][kWarp][4];  // once all is multiplied
  };
  int row_slot[kModules][kBlockRows], row_index[kModules][kBlockRows], slots[kModules][kBlockRows], count[kModules],
      slot[kModules];
  ShrinkOctet octet[Octets];
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
template <class Shared>
__device__ __forceinline__ void find_slots(const ShrinkArgs& args, const BatchView& batch, Shared& s, int module,
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
template <class Shared>
__device__ __forceinline__ void number_slots(Shared& s, int module, int lane) {
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
template <int Octets>
__device__ __forceinline__ void write_adapters(const ShrinkArgs& args, const BatchView& batch,
                                               const ShrinkShared<Octets>& s, int module, WideAdapters& to) {
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
template <int Octets>
__device__ __forceinline__ void copy_factors(ShrinkShared<Octets>& s, const void* anywhere, int first, int in) {
  constexpr int kPieces = kRoundColumns / 8;
  for (int i = int(threadIdx.x); i < Octets * kRankOctet * kPieces; i += kThreads) {
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
template <class Shared, int Octets>
__device__ __forceinline__ void multiply_tile(const Shared& s, int number, int row_warp, int lane,
                                              float (&c)[Octets][4]) {
  const int g = lane / 4, t = lane % 4, row = row_warp * 16 + lane % 16;
#pragma unroll
  for (int span = 0; span < 2; ++span) {
    const int column = number / 2 * kPairColumns + t * 32 + (number % 2 * 2 + span) * 8;
    uint4 factors[Octets];
#pragma unroll
    for (int o = 0; o < Octets; ++o) factors[o] = *reinterpret_cast<const uint4*>(&s.factors[o][g][column]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int chunk = span * 4 + m * 2 + lane / 16;
      uint32_t x[4], high[4], low[4];
      load_matrices(x, shared_address(s.tile[number] + row * 128 + (chunk ^ (row % 8)) * 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) split(x[i], high[i], low[i]);
#pragma unroll
      for (int o = 0; o < Octets; ++o) {
        const uint32_t first = m == 0 ? factors[o].x : factors[o].y, second = m == 0 ? factors[o].z : factors[o].w;
        const uint32_t b0 = __byte_perm(first, second, 0x5410), b1 = __byte_perm(first, second, 0x7632);
        multiply_bf16(c[o], high, b0, b1);
        multiply_bf16(c[o], low, b0, b1);
      }
    }
  }
}

#endif  // BB_HAS_WGMMA

// Older cards, for which the kernels are empty, do not know the word.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define BB_SHRINK_CLUSTER
#else
#define BB_SHRINK_CLUSTER __cluster_dims__(shrink::kShares, 1, 1)
#endif

}  // namespace bumblebee::cuda::shrink
