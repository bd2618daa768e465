// Adapters within a product of one row (product.h, StageLora). Blocks share the pieces of u = A x: each has some of A
// in shared memory, the threads that round x multiply by it on the way, and the ninth warp publishes the sums, waits
// for those of all blocks, and adds B u to the tiles that it writes. Sums have the order of low_rank.cuh. A warp by
// itself is slow, and blocks wait for this one: what does not depend on x (slots, addresses, A) is done before the
// kernel waits for it, and lanes share what there is to do.
#pragma once

#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/product_copy.cuh"

namespace bumblebee::cuda {

__device__ __forceinline__ __nv_bfloat16* held_factors(LoraShared& s) {
  return reinterpret_cast<__nv_bfloat16*>(reinterpret_cast<uint8_t*>(&s) + (sizeof(LoraShared) + 15) / 16 * 16);
}
__device__ __forceinline__ float* lora_u(const ProductArgs& a, LoraShared& s) {
  return reinterpret_cast<float*>(held_factors(s) + a.held * kPieceInputs);
}

/// Where A of a piece is, or null: places are ranks of all terms, pieces of a place follow each other.
__device__ __forceinline__ const __nv_bfloat16* factors_of(const ProductArgs& a, const LoraShared& s, int place) {
  const LoraTerm& term = s.term[place / a.lora.ranks];
  const int rank = place % a.lora.ranks;
  if (term.site == nullptr) return nullptr;
  if (rank < term.rank) return static_cast<const __nv_bfloat16*>(term.a) + int64_t(rank) * a.in;
  if (rank < term.padded || term.terms == 1) return nullptr;
  const RankPlace at = place_of_rank(*term.site, rank);
  return at.exists() ? static_cast<const __nv_bfloat16*>(at.term->a) + int64_t(at.rank) * a.in : nullptr;
}

/// Before x is there: looks the slot up, and copies this block's pieces of A.
__device__ __noinline__ inline void open_lora(const ProductArgs& a, LoraShared& s, uint32_t lane) {
  const StageLora& lora = a.lora;
  if (int(lane) < a.terms) {
    const int slot = lora.slot[lora.logit_rows != nullptr ? lora.logit_rows[0] : 0];
    const SiteView* site = site_of(*lora.slots, slot, lora.site[lane]);
    LoraTerm found = {};
    if (site != nullptr && site->terms > 0) {
      const LowRankView first = site->first;
      found = {first.a, first.b, first.bias, site, first.scale, first.rank, padded_rank(first.rank), site->terms};
    }
    s.term[lane] = found;
  }
  // Of a long row's last piece not every group of octets is visited.
  if (lane < kMostHeld * kLaneOctets) (&s.sums[0][0])[lane] = 0.0f;
  __syncwarp();
  uint32_t pieces = 0;
#pragma unroll 1
  for (int n = 0; n < a.held; ++n) {
    const int item = int(blockIdx.x) + n * int(gridDim.x), place = item / a.pieces, piece = item - place * a.pieces;
    const __nv_bfloat16* from = item < a.items ? factors_of(a, s, place) : nullptr;
    const int first = piece * kPieceInputs, inputs = min(kPieceInputs, a.in - first);
    if (from != nullptr) {
      pieces |= 1u << piece;
#pragma unroll
      for (int j = 0; j < kLaneOctets; ++j) {
        const int octet = int(lane) + j * kWarp;
        copy_async_small<16>(shared_address(held_factors(s) + n * kPieceInputs + octet * 8),
                             octet * 8 < inputs ? from + first + octet * 8 : from, octet * 8 < inputs ? 16 : 0);
      }
    }
    if (lane == 0) s.piece[n] = from != nullptr ? piece : -1;
  }
  if (lane == 0) s.pieces = pieces;
  copy_async_commit();
  copy_async_wait<0>();
}

/// What threads that round the row do for adapters, a warp with 32 octets that follow each other at a time.
struct HeldPieces {
  LoraShared* s;
  int held;
  uint32_t pieces;
  __device__ __forceinline__ void operator()(int octet, const Eight& x) const {
    if ((pieces >> (octet / kPieceOctets) & 1u) != 0) multiply(s, held, octet, x);
  }
  static __device__ __noinline__ void multiply(LoraShared* s, int held, int octet, Eight x) {
#pragma unroll 1
    for (int n = 0; n < held; ++n) {
      if (s->piece[n] != octet / kPieceOctets) continue;
      const int at = octet % kPieceOctets;
      Bf16Octet factors;
      factors.v = *reinterpret_cast<const uint4*>(held_factors(*s) + n * kPieceInputs + at * 8);
      const float sum = warp_sum(dot_octet(widened(factors), x, 0.0f));
      if (at % kWarp == 0) s->sums[n][at / kWarp] = sum;
    }
  }
};

/// This block's pieces of u, [piece, place], for all to see; what no slot has is 0.
__device__ __forceinline__ void publish_pieces(const ProductArgs& a, const LoraShared& s, uint32_t lane) {
  const int item = int(blockIdx.x) + int(lane) * int(gridDim.x);
  if (int(lane) < a.held && item < a.items) {
    float sum = 0;
    if (s.piece[lane] >= 0)
#pragma unroll
      for (int j = 0; j < kLaneOctets; ++j) sum += s.sums[lane][j];
    const int place = item / a.pieces;
    __stcg(a.lora.u + (item - place * a.pieces) * (a.terms * a.lora.ranks) + place, sum);
  }
  __syncwarp();
  if (lane == 0 && int(blockIdx.x) < a.items) raise_counter(a.lora.arrived);
}

/// u, once all blocks have published their pieces. The counter rises to the number of blocks that have some, then as
/// all blocks leave; what lane 0 gets says who is the last.
__device__ __forceinline__ uint32_t take_u(const ProductArgs& a, LoraShared& s, uint32_t lane) {
  const int places = a.terms * a.lora.ranks;
  wait_counter(a.lora.arrived, uint32_t(min(a.items, int(gridDim.x))));
  __syncwarp();
  float* u = lora_u(a, s);
#pragma unroll 1
  for (int i = int(lane); i < places; i += 32) {
    float sum = 0;
#pragma unroll 4
    for (int piece = 0; piece < a.pieces; ++piece) sum += __ldcg(a.lora.u + piece * places + i);
    u[i] = sum;
  }
  __syncwarp();
  return lane == 0 ? atomicAdd(a.lora.arrived, 1u) + 1 : 0;
}
/// The last block to leave makes the counter zero again.
__device__ __forceinline__ void close_lora(const ProductArgs& a, uint32_t left) {
  if (left == uint32_t(min(a.items, int(gridDim.x))) + gridDim.x) *a.lora.arrived = 0;
}

__device__ __forceinline__ const __nv_bfloat16* row_of_b(const LoraTerm& term, int n) {
  return static_cast<const __nv_bfloat16*>(term.b) + int64_t(n) * term.padded;
}

/// What a lane does for a tile: octet `lane / 2 % 2` of B, of row lane / 4 of half lane % 2.
struct LaneChange {
  const LoraTerm* term;  // null: nothing
  int n, place;          // row of B, and first rank among those of all terms
  Bf16Octet b;
};
__device__ __forceinline__ LaneChange ask_change(const ProductArgs& a, const LoraShared& s, const TileHalf (&half)[2],
                                                 uint32_t lane) {
  const bool second = lane % 2 != 0;
  const int term = second ? half[1].term : half[0].term, left = second ? half[1].left : half[0].left;
  const int octet = int(lane / 2 % 2) * kRankOctet;
  LaneChange c = {s.term + term, (second ? half[1].row : half[0].row) + int(lane / 4), term * a.lora.ranks + octet, {}};
  if (int(lane / 4) >= left || c.term->site == nullptr)
    c.term = nullptr;
  else if (octet < c.term->padded)
    load_octet(row_of_b(*c.term, c.n) + octet, c.b);
  return c;
}
/// Ranks from the third octet on, and further terms: what few adapters have.
__device__ __noinline__ inline float sum_later_octets(const LaneChange& c, const float* u, int octet, float sum) {
#pragma unroll 1
  for (int i = octet + 2 * kRankOctet; i < c.term->padded; i += 2 * kRankOctet) {
    Bf16Octet b;
    load_octet(row_of_b(*c.term, c.n) + i, b);
    sum = dot_octet(widened(b), octet_of_u(u + c.place - octet + i), sum);
  }
  return sum;
}
__device__ __noinline__ inline float add_later_terms(const LaneChange& c, const float* u, float change) {
  return add_terms(*c.term->site, 1, c.n, u + c.term->padded, change);
}
/// What adapters add to the two halves of a tile, in lanes 4g.
__device__ __forceinline__ float2 form_change(const LaneChange& c, const float* u, uint32_t lane) {
  const int octet = int(lane / 2 % 2) * kRankOctet;
  const bool there = c.term != nullptr;
  float sum = 0;
  if (there && octet < c.term->padded) {
    sum = dot_octet(widened(c.b), octet_of_u(u + c.place), 0.0f);
    if (c.term->padded > 2 * kRankOctet) sum = sum_later_octets(c, u, octet, sum);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  float change = 0;
  if (there) {
    if (c.term->bias != nullptr) sum += __ldg(c.term->bias + c.n);
    change = fmaf(c.term->scale, sum, 0.0f);
    if (c.term->terms > 1) change = add_later_terms(c, u + c.place - octet, change);
  }
  return {change, __shfl_xor_sync(0xffffffffu, change, 1)};
}

}  // namespace bumblebee::cuda
