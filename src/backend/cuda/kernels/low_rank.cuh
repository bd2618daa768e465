// Sums of low-rank factors, u = A x and B u, in one order for all who form them: a product that does it by itself, the
// kernel that rounds rows, and the operations. So a row has the same bits wherever its adapters were applied.
//
//   u     pieces of 1,024 inputs in ascending order; in a piece four times 32 octets in ascending order, of which each
//         is summed by itself, and all as warp_sum does
//   B u   octets of ranks, even and odd ones apart, both in ascending order; then even + odd
//   terms in ascending order: c = scale·(B u + b) + c from 0; c is added to y once
#pragma once

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/row_norm.cuh"

namespace bumblebee::cuda {

inline constexpr int kPieceOctets = kPieceInputs / 8, kLaneOctets = kPieceOctets / kWarp;

/// Eight factors as they are stored.
struct Bf16Octet {
  uint4 v = {};
};
struct F32Octet {
  Eight v = {};
};
__device__ __forceinline__ Eight widened(const Bf16Octet& x) {
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  const auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); };
  return {{low(x.v.x), high(x.v.x), low(x.v.y), high(x.v.y), low(x.v.z), high(x.v.z), low(x.v.w), high(x.v.w)}};
}
__device__ __forceinline__ Eight widened(const F32Octet& x) { return x.v; }

/// `at` is a multiple of 16 bytes. Factors do not change while a kernel runs.
__device__ __forceinline__ void load_octet(const __nv_bfloat16* at, Bf16Octet& to) {
  to.v = __ldg(reinterpret_cast<const uint4*>(at));
}
__device__ __forceinline__ void load_octet(const float* at, F32Octet& to) {
  const float4 a = __ldg(reinterpret_cast<const float4*>(at)), b = __ldg(reinterpret_cast<const float4*>(at) + 1);
  to.v = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ float dot_octet(const Eight& a, const Eight& x, float sum) {
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a.v[i], x.v[i], sum);
  return sum;
}

/// Σ a·x of a piece, in every lane. `a(octet, to)` and `x(octet)` are asked for octets below `octets`.
template <class Octet, class LoadA, class LoadX>
__device__ __forceinline__ float dot_piece(int octets, int lane, LoadA a, LoadX x) {
  Octet factors[kLaneOctets];
  Eight values[kLaneOctets];
#pragma unroll
  for (int i = 0; i < kLaneOctets; ++i) {
    const int octet = lane + kWarp * i;
    values[i] = {};
    if (octet >= octets) continue;
    a(octet, factors[i]);
    values[i] = x(octet);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneOctets; ++i) sum += warp_sum(dot_octet(widened(factors[i]), values[i], 0.0f));
  return sum;
}

/// At a multiple of 16 bytes, in shared memory.
__device__ __forceinline__ Eight octet_of_u(const float* u) {
  const float4 x = *reinterpret_cast<const float4*>(u), y = *reinterpret_cast<const float4*>(u + 4);
  return {{x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w}};
}
/// Σ b·u over the ranks of a term: a row of B of `padded` ranks.
template <class Octet, class Factor>
__device__ __forceinline__ float dot_ranks(const Factor* b, const float* u, int padded) {
  float even = 0, odd = 0;
#pragma unroll 1
  for (int i = 0; i < padded; i += 2 * kRankOctet) {
    Octet first, second;
    const bool both = i + kRankOctet < padded;
    load_octet(b + i, first);
    if (both) load_octet(b + i + kRankOctet, second);
    even = dot_octet(widened(first), octet_of_u(u + i), even);
    if (both) odd = dot_octet(widened(second), octet_of_u(u + i + kRankOctet), odd);
  }
  return even + odd;
}

/// What the terms from `first` on add to column n; u is theirs.
__device__ inline float add_terms(const SiteView& site, int first, int n, const float* u, float change) {
#pragma unroll 1
  for (int t = first; t < site.terms; ++t) {
    const LowRankView term = site.term[t];
    const int padded = padded_rank(term.rank);
    const size_t at = size_t(n) * size_t(padded);
    float sum = term.element == Element::bf16
                    ? dot_ranks<Bf16Octet>(static_cast<const __nv_bfloat16*>(term.b) + at, u, padded)
                    : dot_ranks<F32Octet>(static_cast<const float*>(term.b) + at, u, padded);
    if (term.bias != nullptr) sum += __ldg(term.bias + n);
    change = fmaf(term.scale, sum, change);
    u += padded;
  }
  return change;
}

/// A term and a rank of it by their place among the ranks of a module, where each term has padded_rank() of them.
struct RankPlace {
  const LowRankView* term = nullptr;  // null: no term has it
  int rank = 0;                       // may be one of the zeros at a term's end
  __device__ bool exists() const { return term != nullptr && rank < term->rank; }
};
__device__ __forceinline__ RankPlace place_of_rank(const SiteView& site, int place) {
  for (int t = 0; t < site.terms; ++t) {
    const LowRankView* term = t == 0 ? &site.first : &site.term[t];
    const int padded = padded_rank(term->rank);
    if (place < padded) return {term, place};
    place -= padded;
  }
  return {};
}

}  // namespace bumblebee::cuda
