// u = A x of the rows of product_rows.h: a row and some ranks are a block's work, beside the blocks that round the row.
// Sums have the order of low_rank.cuh. Slots, addresses and factors, which do not depend on x, come before the wait.
#pragma once

#include <cstddef>

#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/product_rows.cuh"

namespace bumblebee::cuda {

/// Σ of v[lane / (32 / K)] over the warp, added as warp_sum() does.
template <int K>
__device__ __forceinline__ float scatter_sum(float (&v)[K], int lane) {
  int offset = kWarp / 2;
#pragma unroll
  for (int n = K / 2; n > 0; n /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const float kept = upper ? v[k + n] : v[k], sent = upper ? v[k] : v[k + n];
      v[k] = kept + __shfl_xor_sync(0xffffffffu, sent, offset);
    }
  }
#pragma unroll
  for (; offset > 0; offset /= 2) v[0] += __shfl_xor_sync(0xffffffffu, v[0], offset);
  return v[0];
}

/// What a row's slot adds to a term. Loads that wait for nothing are issued together: a kernel's beginning is a chain
/// of such waits, and branches between them would make each a link.
struct AddedTerms {
  const SiteView* site = nullptr;  // null: the slot has nothing here, or more than terms
  int32_t terms = 0;
  LowRankView first = {};  // where there are terms
};
__device__ __forceinline__ uint64_t load_word(const void* at, int byte) {
  uint64_t word;
  asm volatile("ld.global.nc.b64 %0, [%1];" : "=l"(word) : "l"(static_cast<const char*>(at) + byte));
  return word;
}
__device__ __forceinline__ AddedTerms find_terms(const TileLora& lora, int row, int term) {
  static_assert(offsetof(SiteView, present) == 0 && offsetof(SiteView, before_bias) == 4 &&
                offsetof(SiteView, terms) == 8 && offsetof(SiteView, first) == 24 && sizeof(LowRankView) == 40 &&
                offsetof(SlotView, sites) == 0 && offsetof(SlotView, count) == 8 && sizeof(SlotView) == 16 &&
                offsetof(SlotTableView, slots) == 0 && offsetof(SlotTableView, count) == 8);
  const uint64_t slots = load_word(lora.slots, 0), slot_count = load_word(lora.slots, 8);
  const int slot = lora.slot[lora.logit_rows != nullptr ? lora.logit_rows[row] : row], site = lora.site[term];
  if (slot < 0 || uint64_t(slot) >= slot_count) return {};
  const SlotView* const of = reinterpret_cast<const SlotView*>(slots) + slot;
  const uint64_t sites = load_word(of, 0), site_count = load_word(of, 8);
  if (site < 0 || uint64_t(site) >= site_count) return {};
  const SiteView* const at = reinterpret_cast<const SiteView*>(sites) + site;
  const uint64_t kind = load_word(at, 0), terms = load_word(at, 8);
  uint64_t first[5];
#pragma unroll
  for (int i = 0; i < 5; ++i) first[i] = load_word(at, 24 + 8 * i);
  if (uint32_t(kind) == 0 || kind >> 32 != 0) return {};
  return {at,
          int32_t(terms),
          {reinterpret_cast<const void*>(first[0]), reinterpret_cast<const void*>(first[1]),
           reinterpret_cast<const float*>(first[2]), int32_t(first[3]), __uint_as_float(uint32_t(first[3] >> 32)),
           Element(int32_t(first[4]))}};
}

/// Groups of 32 octets of the longest row.
inline constexpr int kMostShrinkGroups = 128;
/// Ranks of a block and octets of a thread that are worked on at a time, by the length of the row.
inline constexpr int kShrinkInputs = 4096;
BB_BOTH constexpr int shrink_ranks(int in) { return in <= kShrinkInputs ? 8 : 4; }

struct ShrinkRows {
  StageInput input;
  TileLora lora;
  int32_t in, terms;
};

/// u of row `row` and the ranks from `place` on, of those of all terms.
template <int K, int N>
__device__ __forceinline__ void shrink_row(const ShrinkRows& a, int row, int place, float* squares,
                                           float (*sums)[kRankOctet]) {
  const int tid = int(threadIdx.x), warp = tid / kWarp, lane = tid % kWarp, octets = a.in / 8;
  const int term = place / a.lora.ranks;
  const AddedTerms found = find_terms(a.lora, row, term);
  const int of_term = place % a.lora.ranks;
  RankPlace at = {};
  if (found.terms > 0 && of_term < padded_rank(found.first.rank))
    at = {&found.first, of_term};
  else if (found.terms > 1)
    at = place_of_rank(*found.site, of_term);
  const int ranks = at.term != nullptr ? min(K, at.term->rank - at.rank) : 0;
  if (ranks <= 0) {
    wait_for_inputs();
    if (at.term != nullptr && tid < K)
      __stcg(a.lora.u + size_t(row) * size_t(a.terms * a.lora.ranks) + place + tid, 0.0f);
    return;
  }
  const __nv_bfloat16* const factors = static_cast<const __nv_bfloat16*>(at.term->a) + size_t(at.rank) * size_t(a.in);
  const float* const x = a.input.x + size_t(row) * size_t(a.in);
  const bool normed = a.input.kind == StageInput::Kind::rms_norm;
  const auto octet_of = [&](int i) { return tid + i * kRoundThreads; };
  Bf16Octet f[N][K];
  Eight kept[N], norm[N];
  const auto load_factors = [&](int first) {
    for_all<N>([&](int i) {
      const int octet = octet_of(first + i);
      for_all<K>([&](int k) {
        f[i][k] = {};
        if (octet < octets && k < ranks) load_octet(factors + size_t(k) * size_t(a.in) + octet * 8, f[i][k]);
      });
      if (normed) norm[i] = norm_octet(a.input.norm, octet, octet < octets);
    });
  };
  const auto load_x = [&](int first) {
    for_all<N>([&](int i) {
      const int octet = octet_of(first + i);
      kept[i] = octet < octets ? load_eight(x + octet * 8) : Eight{};
    });
  };
  load_factors(0);
  wait_for_inputs();
  load_x(0);
  float inverse = 1.0f;
  if (normed) {
    float sum = 0.0f;
    for_all<N>([&](int i) { sum = sum_squares(kept[i], sum); });
#pragma unroll 1
    for (int octet = octet_of(N); octet < octets; octet += kRoundThreads)
      sum = sum_squares(load_eight(x + octet * 8), sum);
    store_sum(sum, squares);
    __syncthreads();
    inverse = inverse_rms(squares, a.in, a.input.eps);
  }
#pragma unroll 1
  for (int first = 0;;) {
    for_all<N>([&](int i) {
      if (normed) for_all<8>([&](int j) { kept[i].v[j] = kept[i].v[j] * inverse * norm[i].v[j]; });
      float v[K];
      for_all<K>([&](int k) { v[k] = dot_octet(widened(f[i][k]), kept[i], 0.0f); });
      const float sum = scatter_sum(v, lane);
      const int group = (first + i) * (kRoundThreads / kWarp) + warp;
      if (lane % (kWarp / K) == 0 && group * kWarp < octets) sums[group][lane / (kWarp / K)] = sum;
    });
    first += N;
    if (first * kRoundThreads >= octets) break;
    load_factors(first);
    load_x(first);
  }
  __syncthreads();
  if (tid >= K) return;
  const int groups = (octets + kWarp - 1) / kWarp;
  float u = 0;
#pragma unroll 1
  for (int group = 0; group < groups; group += kLaneOctets) {
    float sum = 0;
    for_all<kLaneOctets>([&](int i) { sum += group + i < groups ? sums[group + i][tid] : 0.0f; });
    u += sum;
  }
  __stcg(a.lora.u + size_t(row) * size_t(a.terms * a.lora.ranks) + place + tid, tid < ranks ? u : 0.0f);
}

}  // namespace bumblebee::cuda
