// What the warps that finish tiles of product_rows.h do for adapters: they look up slots before x is there, and add
// B u to what becomes an output, in the order of low_rank.cuh. They form it while the tile is still multiplied.
#pragma once

#include "backend/cuda/kernels/product_rows_multiply.cuh"
#include "backend/cuda/kernels/product_rows_shrink.cuh"

namespace bumblebee::cuda {

#if BB_HAS_WGMMA

inline constexpr int kAdaptersBarrier = 2;

/// In shared memory: [row][term] what adapters add, and [row] u, whose rows begin at different banks. A term has
/// `u_ranks` of it, and what a row lacks of the first two octets is zero.
struct RowsAdapters {
  const RowTerm* term;
  float* u;
  uint32_t same;    // bit t: all rows have the same B of term t
  uint32_t simple;  // bit t: no row has more of it than two octets of ranks
};
__device__ __forceinline__ const RowTerm& term_of(const RowsArgs& a, const RowsAdapters& l, int row, int term) {
  return l.term[row * a.terms + term];
}

/// Before x is there: looks slots up, by the `a.buffers` warps that finish.
template <int Rows>
__device__ __forceinline__ RowsAdapters open_adapters(const RowsArgs& a, unsigned char* memory, int own, int lane) {
  RowTerm* const to = reinterpret_cast<RowTerm*>(memory);
#pragma unroll 1
  for (int i = own * kWarp + lane; i < Rows * a.terms; i += a.buffers * kWarp) {
    const int row = i / a.terms, term = i % a.terms;
    RowTerm found = {nullptr, nullptr, nullptr, -0.0f, -1};  // x + -0 is x
    if (row < a.rows) {
      const AddedTerms of = find_terms(a.lora, row, term);
      if (of.site != nullptr) found.scale = 0.0f, found.padded = 0;
      if (of.terms > 0)
        found = {static_cast<const __nv_bfloat16*>(of.first.b), of.first.bias, of.terms > 1 ? of.site : nullptr,
                 of.first.scale, padded_rank(of.first.rank)};
    }
    to[i] = found;
  }
  sync_threads_of(kAdaptersBarrier, a.buffers * kWarp);
  RowsAdapters l = {to, reinterpret_cast<float*>(to + Rows * a.terms), 0, 0};
#pragma unroll 1
  for (int term = 0; term < a.terms; ++term) {
    bool same = true, simple = true;
    for (int row = lane; row < a.rows; row += kWarp) {
      const RowTerm& of = term_of(a, l, row, term);
      same = same && of.b == to[term].b;
      simple = simple && of.padded <= 2 * kRankOctet && of.bias == nullptr && of.more == nullptr;
    }
    l.same |= uint32_t(__all_sync(0xffffffffu, same)) << term;
    l.simple |= uint32_t(__all_sync(0xffffffffu, simple)) << term;
  }
  return l;
}
/// Once u is there.
template <int Rows>
__device__ __forceinline__ void copy_u(const RowsArgs& a, const RowsAdapters& l, int own, int lane) {
  const int of_term = a.u_ranks / 4, fours = a.terms * of_term;
#pragma unroll 2
  for (int i = own * kWarp + lane; i < Rows * fours; i += a.buffers * kWarp) {
    const int row = i / fours, term = i % fours / of_term, rank = i % of_term * 4;
    const RowTerm& of = term_of(a, l, row, term);
    float4 u = {};
    if (rank < a.lora.ranks && of.b != nullptr && (rank < of.padded || rank >= 2 * kRankOctet || of.more != nullptr))
      u = __ldcg(reinterpret_cast<const float4*>(a.lora.u + (row * a.terms + term) * a.lora.ranks + rank));
    *reinterpret_cast<float4*>(l.u + row * a.u_pitch + term * a.u_ranks + rank) = u;
  }
  sync_threads_of(kAdaptersBarrier, a.buffers * kWarp);
}

/// Asks L2 for the first terms' A of the stage after this one: blocks and lanes share the lines of each slot.
__device__ __forceinline__ void ask_for_next_a(const RowsArgs& a, int lane) {
  constexpr int kLine = 128;
  for (int first = 0; first < a.rows && a.next.terms > 0; first += kWarp) {
    const int row = first + lane;
    int slot = -1;
    if (row < a.rows) slot = a.lora.slot[a.lora.logit_rows != nullptr ? a.lora.logit_rows[row] : row];
    const bool leads = __ffs(__match_any_sync(0xffffffffu, slot)) - 1 == lane;
#pragma unroll 1
    for (int t = 0; t < a.next.terms; ++t) {
      const SiteView* const site = leads ? site_of(*a.lora.slots, slot, a.next.site[t]) : nullptr;
      uint64_t from = 0;
      int lines = 0;
      if (site != nullptr && site->terms > 0) {
        from = reinterpret_cast<uint64_t>(site->first.a);
        lines = site->first.rank * a.next.in * int(sizeof(__nv_bfloat16)) / kLine;
      }
      for (uint32_t left = __ballot_sync(0xffffffffu, lines > 0); left != 0; left &= left - 1) {
        const int leader = __ffs(left) - 1, count = __shfl_sync(0xffffffffu, lines, leader);
        const char* const begin = reinterpret_cast<const char*>(__shfl_sync(0xffffffffu, from, leader));
        for (int i = int(blockIdx.x) * kWarp + lane; i < count; i += int(gridDim.x) * kWarp)
          prefetch_l2(begin + int64_t(i) * kLine);
      }
    }
  }
}

/// Asks L2 for what a block's outputs of a tile want of B.
__device__ __forceinline__ void ask_for_b(const RowsArgs& a, const RowsAdapters& l, const RowsHalf (&half)[2], int rank,
                                          int lane) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int first = half[h].row + 8 * rank, count = min(8, a.term[half[h].term].out - first);
    if (count <= 0) continue;
    const int rows = l.same >> half[h].term & 1 ? 1 : a.rows;
    for (int row = lane; row < rows; row += kWarp) {
      const RowTerm& of = term_of(a, l, row, half[h].term);
      if (of.b == nullptr) continue;
      const char* const begin = reinterpret_cast<const char*>(of.b + int64_t(first) * of.padded);
      const int bytes = count * of.padded * int(sizeof(__nv_bfloat16));
      for (int i = 0; i < bytes; i += 128) prefetch_l2(begin + i);
    }
  }
}

/// Ranks from the third octet on: what few adapters have.
__device__ __noinline__ inline float2 add_later_octets(const __nv_bfloat16* b, const float* u, int padded, float2 sum) {
#pragma unroll 1
  for (int i = 2 * kRankOctet; i < padded; i += 2 * kRankOctet) {
    Bf16Octet octet;
    load_octet(b + i, octet);
    sum.x = dot_octet(widened(octet), octet_of_u(u + i), sum.x);
    if (i + kRankOctet >= padded) break;
    load_octet(b + i + kRankOctet, octet);
    sum.y = dot_octet(widened(octet), octet_of_u(u + i + kRankOctet), sum.y);
  }
  return sum;
}
__device__ __noinline__ inline float add_later_terms(const SiteView* site, int n, const float* u, float change) {
  return add_terms(*site, 1, n, u, change);
}

/// The first two octets of a row of B.
struct RankOctets {
  Bf16Octet octet[2];
};
__device__ __forceinline__ void load_octets(const RowTerm& of, int n, RankOctets& to) {
  const __nv_bfloat16* const b = of.b + int64_t(n) * of.padded;
  load_octet(b, to.octet[0]);
  if (of.padded > kRankOctet) load_octet(b + kRankOctet, to.octet[1]);
}
__device__ __forceinline__ float change_of(const RowTerm& of, int n, const RankOctets& b, const float* u) {
  float2 sum = {dot_octet(widened(b.octet[0]), octet_of_u(u), 0.0f), 0.0f};
  if (of.padded > kRankOctet) sum.y = dot_octet(widened(b.octet[1]), octet_of_u(u + kRankOctet), 0.0f);
  if (of.padded > 2 * kRankOctet) sum = add_later_octets(of.b + int64_t(n) * of.padded, u, of.padded, sum);
  float both = sum.x + sum.y;
  if (of.bias != nullptr) both += __ldg(of.bias + n);
  float change = fmaf(of.scale, both, 0.0f);
  if (of.more != nullptr) change = add_later_terms(of.more, n, u + of.padded, change);
  return change;
}

/// What adapters add to the outputs of a lane in one half of a tile, rows first_row + 4j + t.
struct HalfChange {
  const RowsArgs& a;
  const RowsAdapters& l;
  int term, n, first_row;  // first_row: of the lane
  bool there;
  __device__ __forceinline__ const RowTerm& of(int j) const { return term_of(a, l, first_row + 4 * j, term); }
  __device__ __forceinline__ const float* u(int j) const {
    return l.u + (first_row + 4 * j) * a.u_pitch + term * a.u_ranks;
  }
  __device__ __forceinline__ RankOctets load(const RowTerm& from) const {
    RankOctets b = {};
    if (from.b != nullptr && there) load_octets(from, n, b);
    return b;
  }
  /// Of at most two octets: without branches, so that rows fill each other's waits.
  __device__ __forceinline__ float simple(int j, const RankOctets& b) const {
    const float even = dot_octet(widened(b.octet[0]), octet_of_u(u(j)), 0.0f),
                odd = dot_octet(widened(b.octet[1]), octet_of_u(u(j) + kRankOctet), 0.0f);
    return fmaf(of(j).scale, even + odd, of(j).padded < 0 ? -0.0f : 0.0f);
  }
  __device__ __forceinline__ float any(int j, const RankOctets& b) const {
    return of(j).b != nullptr && there ? change_of(of(j), n, b, u(j)) : of(j).scale;
  }
};

/// What adapters add to a lane's outputs. A slot that has nothing adds what leaves every number as it is.
template <int R>
__device__ __forceinline__ RowSums<R> form_changes(const RowsArgs& a, const RowsAdapters& l, const RowsHalf (&half)[2],
                                                   const int (&out)[2], const bool (&there)[2], int first_row, int t) {
  constexpr int kRowsOfLane = R / 4, kAtOnce = kRowsOfLane % 4 == 0 ? 4 : 2;
  RowSums<R> change;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const HalfChange c = {a, l, half[h].term, out[h], first_row + t, there[h]};
    if ((l.simple & l.same) >> c.term & 1) {
      const RankOctets b = c.load(term_of(a, l, 0, c.term));
#pragma unroll
      for (int j = 0; j < kRowsOfLane; ++j) change.v[j][h] = c.simple(j, b);
      continue;
    }
    const bool simple = l.simple >> c.term & 1;
#pragma unroll
    for (int j0 = 0; j0 < kRowsOfLane; j0 += kAtOnce) {
      RankOctets b[kAtOnce];
      for_all<kAtOnce>([&](int i) { b[i] = c.load(c.of(j0 + i)); });
      if (simple)
        for_all<kAtOnce>([&](int i) { change.v[j0 + i][h] = c.simple(j0 + i, b[i]); });
      else
        for_all<kAtOnce>([&](int i) { change.v[j0 + i][h] = c.any(j0 + i, b[i]); });
    }
  }
  return change;
}

#endif  // BB_HAS_WGMMA

}  // namespace bumblebee::cuda
