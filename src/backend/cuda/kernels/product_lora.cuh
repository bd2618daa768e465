// Adapters within a product of one row (product.h, StageLora). Blocks share the pieces of u = A x. A warp of its own
// does all that is to be done for them: it looks up what the slot does and asks for factors while the kernel before
// runs, multiplies pieces of x, which the warps that round leave for it, tells all blocks the sums, collects u, and
// forms what is added to each tile before the finishing warp wants it. Sums have the order of low_rank.cuh. A sum is
// its own sign of being there: where there is none yet is zero, and a sum that is zero is told as -0. So it is on its
// way once, where a counter would be three ways, one after the other.
#pragma once

#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/product_copy.cuh"

namespace bumblebee::cuda {

/// Words that other blocks wait for, each for its own: nothing else is ordered by them.
__device__ __forceinline__ void tell(float* to, float v) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory");
}
__device__ __forceinline__ float4 look(const float* from) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

__device__ __forceinline__ float* kept_x(LoraShared& s) { return reinterpret_cast<float*>(&s + 1); }
__device__ __forceinline__ __nv_bfloat16* held_factors(const ProductArgs& a, LoraShared& s) {
  return reinterpret_cast<__nv_bfloat16*>(kept_x(s) + a.held * kPieceInputs);
}
/// An octet of B for each tile ahead and lane.
__device__ __forceinline__ uint4* held_b(const ProductArgs& a, LoraShared& s) {
  return reinterpret_cast<uint4*>(held_factors(a, s) + a.held * kPieceInputs);
}
__device__ __forceinline__ float* lora_u(const ProductArgs& a, LoraShared& s) {
  return reinterpret_cast<float*>(held_b(a, s) + kTilesAhead * kWarp);
}

/// Octets of a piece, and runs of 32 of them, each of which a warp rounds.
__device__ __forceinline__ int octets_of_piece(const ProductArgs& a, int piece) {
  return min(kPieceOctets, a.in / 8 - piece * kPieceOctets);
}
/// Which pieces the block has, by one thread; others see it after a barrier. Items are ranks of all terms, and pieces
/// of a rank follow each other.
__device__ __forceinline__ void deal_pieces(const ProductArgs& a, LoraShared& s) {
  uint32_t pieces = 0;
#pragma unroll 1
  for (int n = 0; n < a.held; ++n) {
    const int item = int(blockIdx.x) + n * int(gridDim.x);
    const int place = item / a.pieces, piece = item - place * a.pieces;
    s.place[n] = item < a.items ? place : -1;
    s.piece[n] = piece;
    if (item >= a.items) continue;
    if ((pieces >> piece & 1u) == 0) {
      s.slot_of[piece] = int8_t(n);
      gate_init(s.kept + n, (octets_of_piece(a, piece) + kWarp - 1) / kWarp);
    }
    pieces |= 1u << piece;
    s.slot[n] = s.slot_of[piece];
  }
  s.pieces = pieces;
  for (int i = 0; i < kChangesAhead; ++i) gate_init(s.formed + i, 1), gate_init(s.added + i, 1);
}

/// What threads that round the row do for adapters, a warp with 32 octets that follow each other at a time.
struct HeldPieces {
  LoraShared* s;
  uint32_t pieces;
  int octets;

  __device__ __forceinline__ int thread() const { return int(threadIdx.x); }
  __device__ __forceinline__ void operator()(int octet, const Eight& x) const {
    const int piece = octet / kPieceOctets;
    if ((pieces >> (piece & 31) & 1u) == 0 || octet - int(threadIdx.x % kWarp) >= octets) return;
    const int slot = s->slot_of[piece];
    float4* to = reinterpret_cast<float4*>(kept_x(*s) + slot * kPieceInputs + octet % kPieceOctets * 8);
    to[0] = {x.v[0], x.v[1], x.v[2], x.v[3]};
    to[1] = {x.v[4], x.v[5], x.v[6], x.v[7]};
    __syncwarp();
    if (threadIdx.x % kWarp == 0) gate_arrive(s->kept + slot);
  }
  __device__ __forceinline__ void seen() const {}
};

/// A's row of a rank, or null.
__device__ __forceinline__ const __nv_bfloat16* row_of_a(const ProductArgs& a, const LoraTerm& term, int rank) {
  if (term.site == nullptr) return nullptr;
  if (rank < term.rank) return static_cast<const __nv_bfloat16*>(term.a) + int64_t(rank) * a.in;
  if (rank < term.padded || term.terms == 1) return nullptr;
  const RankPlace at = place_of_rank(*term.site, rank);
  return at.exists() ? static_cast<const __nv_bfloat16*>(at.term->a) + int64_t(at.rank) * a.in : nullptr;
}

/// Asks for the block's pieces of A, an octet of four a lane, which no other lane reads.
__device__ __forceinline__ void ask_factors(const ProductArgs& a, LoraShared& s, uint32_t lane) {
#pragma unroll 1
  for (int n = 0; n < a.held && s.place[n] >= 0; ++n) {
    const int place = s.place[n], piece = s.piece[n], term = place / a.lora.ranks, octets = octets_of_piece(a, piece);
    const __nv_bfloat16* row = row_of_a(a, s.term[term], place - term * a.lora.ranks);
    if (row == nullptr) continue;
#pragma unroll
    for (int i = 0; i < kLaneOctets; ++i) {
      const int octet = int(lane) + i * kWarp;
      if (octet < octets)
        copy_async_small<16>(shared_address(held_factors(a, s) + n * kPieceInputs + octet * 8),
                             row + piece * kPieceInputs + octet * 8, 16);
    }
  }
  copy_async_commit();
}
/// Multiplies them by x, and tells the sums.
__device__ __forceinline__ void tell_pieces(const ProductArgs& a, LoraShared& s, uint32_t lane) {
  copy_async_wait<kTilesAhead>();  // all but B of those tiles
  const int stride = part_stride(a.pieces);
#pragma unroll 1
  for (int n = 0; n < a.held && s.place[n] >= 0; ++n) {
    const int place = s.place[n], piece = s.piece[n], term = place / a.lora.ranks, slot = s.slot[n];
    float sum = 0;
    if (row_of_a(a, s.term[term], place - term * a.lora.ranks) != nullptr) {
      gate_wait(s.kept + slot, 0);
      const __nv_bfloat16* factors = held_factors(a, s) + n * kPieceInputs;
      const float* x = kept_x(s) + slot * kPieceInputs;
      sum = dot_piece<Bf16Octet>(
          octets_of_piece(a, piece), int(lane),
          [&](int octet, Bf16Octet& to) { to.v = *reinterpret_cast<const uint4*>(factors + octet * 8); },
          [&](int octet) { return octet_of_u(x + octet * 8); });
    }
    if (lane == 0) tell(a.lora.parts + place * stride + piece, sum == 0.0f ? -0.0f : sum);
  }
}

/// u, once all blocks have told their sums.
__device__ __forceinline__ void take_u(const ProductArgs& a, LoraShared& s, uint32_t lane) {
  constexpr int kRounds = 2, kQuads = 3;  // at once: what q, k and v of rank 16 have, and three times as many inputs
  const int places = a.terms * a.lora.ranks, stride = part_stride(a.pieces);
#pragma unroll 1
  for (int first = int(lane); first - int(lane) < places; first += kRounds * kWarp) {
    float sum[kRounds] = {};
#pragma unroll 1
    for (int piece = 0; piece < a.pieces; piece += 4 * kQuads) {
      float4 v[kRounds][kQuads];
      bool all;
      do {
        all = true;
#pragma unroll
        for (int i = 0; i < kRounds; ++i)
#pragma unroll
          for (int j = 0; j < kQuads; ++j) {
            const int at = piece + 4 * j;
            v[i][j] = {};
            if (first + i * kWarp < places && at < a.pieces)
              v[i][j] = look(a.lora.parts + (first + i * kWarp) * stride + at);
          }
#pragma unroll
        for (int i = 0; i < kRounds; ++i)
#pragma unroll
          for (int j = 0; j < kQuads; ++j) {
            const int left = first + i * kWarp < places ? a.pieces - piece - 4 * j : 0;
            all = all && (left < 1 || __float_as_uint(v[i][j].x) != 0) &&
                  (left < 2 || __float_as_uint(v[i][j].y) != 0) && (left < 3 || __float_as_uint(v[i][j].z) != 0) &&
                  (left < 4 || __float_as_uint(v[i][j].w) != 0);
          }
      } while (!__all_sync(0xffffffffu, all));
#pragma unroll
      for (int i = 0; i < kRounds; ++i)
#pragma unroll
        for (int j = 0; j < kQuads; ++j) sum[i] = (((sum[i] + v[i][j].x) + v[i][j].y) + v[i][j].z) + v[i][j].w;
    }
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      if (first + i * kWarp < places) lora_u(a, s)[first + i * kWarp] = sum[i];
  }
  __syncwarp();
}

__device__ __forceinline__ const __nv_bfloat16* row_of_b(const LoraTerm& term, int n) {
  return static_cast<const __nv_bfloat16*>(term.b) + int64_t(n) * term.padded;
}

/// What a lane does for a tile: octet `lane / 2 % 2` of B, of row lane / 4 of half lane % 2.
struct LaneChange {
  const LoraTerm* term;  // null: nothing
  int n, place;          // row of B, and first rank among those of all terms
};
__device__ __forceinline__ LaneChange lane_change(const ProductArgs& a, const LoraTerm* terms, int tile,
                                                  uint32_t lane) {
  const TileHalf half = half_of_tile(a, tile, int(lane % 2));
  const LoraTerm* term = terms + half.term;
  const bool there = int(lane / 4) < half.left && term->site != nullptr;
  return {there ? term : nullptr, half.row + int(lane / 4), half.term * a.lora.ranks + int(lane / 2 % 2) * kRankOctet};
}
/// The tiles of a block, in their order.
struct TileWalk {
  int first_unit, stride, bits;  // 2^bits tiles to a unit
  __device__ __forceinline__ int operator()(int i) const {
    return ((first_unit + (i >> bits) * stride) << bits) + (i & ((1 << bits) - 1));
  }
};
/// What changes of tiles are formed of, in shared memory.
struct ChangeFrom {
  const LoraTerm* terms;
  uint4* b;  // of each tile ahead, an octet a lane
  const float* u;
};
/// Asks for the lane's octet of B of the block's tile i, of which so many are held.
template <int Ahead>
__device__ __forceinline__ void ask_change(const ProductArgs& a, const ChangeFrom& from, const TileWalk& walk, int i,
                                           uint32_t lane) {
  const LaneChange c = lane_change(a, from.terms, walk(i), lane);
  const int octet = int(lane / 2 % 2) * kRankOctet;
  if (c.term != nullptr && octet < c.term->padded)
    copy_async_small<16>(shared_address(from.b + i % Ahead * kWarp + lane), row_of_b(*c.term, c.n) + octet, 16);
  copy_async_commit();
}
/// Ranks from the third octet on, and further terms: what few adapters have.
__device__ __noinline__ inline float sum_later_octets(LaneChange c, const float* u, int octet, float sum) {
#pragma unroll 1
  for (int i = octet + 2 * kRankOctet; i < c.term->padded; i += 2 * kRankOctet) {
    Bf16Octet b;
    load_octet(row_of_b(*c.term, c.n) + i, b);
    sum = dot_octet(widened(b), octet_of_u(u + c.place - octet + i), sum);
  }
  return sum;
}
__device__ __noinline__ inline float add_later_terms(LaneChange c, const float* u, float change) {
  return add_terms(*c.term->site, 1, c.n, u + c.term->padded, change);
}
/// What a lane has for the change of a tile, u aside.
struct LaneFactors {
  LaneChange at;
  Bf16Octet b;
  float bias;
  bool octet;  // it has one
};
/// Of the block's tile i, whose B was asked for.
template <int Ahead>
__device__ __forceinline__ LaneFactors take_factors(const ProductArgs& a, const ChangeFrom& from, const TileWalk& walk,
                                                    int i, uint32_t lane) {
  LaneFactors f = {lane_change(a, from.terms, walk(i), lane), {}, 0.0f, false};
  if (f.at.term == nullptr) return f;
  f.octet = int(lane / 2 % 2) * kRankOctet < f.at.term->padded;
  if (f.at.term->bias != nullptr) f.bias = __ldg(f.at.term->bias + f.at.n);
  copy_async_wait<Ahead - 1>();  // the lane's own
  f.b.v = from.b[i % Ahead * kWarp + lane];
  return f;
}
/// What adapters add to a row of a tile, in lanes 4g of half 0 and 4g + 1 of half 1.
__device__ __forceinline__ float form_change(const ChangeFrom& from, const LaneFactors& f, uint32_t lane) {
  const LaneChange& c = f.at;
  const float* u = from.u;
  const int octet = int(lane / 2 % 2) * kRankOctet;
  float sum = 0;
  if (f.octet) {
    sum = dot_octet(widened(f.b), octet_of_u(u + c.place), 0.0f);
    if (c.term->padded > 2 * kRankOctet) sum = sum_later_octets(c, u, octet, sum);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  float change = 0;
  if (c.term != nullptr) {
    if (c.term->bias != nullptr) sum += f.bias;
    change = fmaf(c.term->scale, sum, 0.0f);
    if (c.term->terms > 1) change = add_later_terms(c, u + c.place - octet, change);
  }
  return change;
}

/// All of the warp's work; `tiles` of the block.
__device__ __forceinline__ void adapt(const ProductArgs& a, LoraShared& s, const TileWalk& walk, int tiles,
                                      uint32_t lane) {
  bool some = false;
  if (int(lane) < a.terms) {
    const LoraTerm found = a.lora.terms[a.lora.site[lane]];
    s.term[lane] = found;
    some = found.site != nullptr;
  }
  some = __any_sync(0xffffffffu, some);
  __syncwarp();
  const ChangeFrom from = {s.term, held_b(a, s), lora_u(a, s)};
  if (some) {
    ask_factors(a, s, lane);
#pragma unroll 1
    for (int i = 0; i < kTilesAhead; ++i)
      if (i < tiles)
        ask_change<kTilesAhead>(a, from, walk, i, lane);
      else
        copy_async_commit();
  }
  wait_for_inputs();
  for (int i = int(blockIdx.x) * kWarp + int(lane); i < kLoraParts / 4; i += int(gridDim.x) * kWarp)
    __stcg(reinterpret_cast<float4*>(a.lora.stale) + i, float4{});
  if (lane == 0) s.some = some;
  __syncwarp();
  if (!some) {
    if (lane == 0) gate_arrive(s.formed);
    return;
  }
  tell_pieces(a, s, lane);
  take_u(a, s, lane);
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    const int slot = i % kChangesAhead;
    if (i >= kChangesAhead) gate_wait(s.added + slot, uint32_t(i / kChangesAhead - 1) & 1u);
    const float change = form_change(from, take_factors<kTilesAhead>(a, from, walk, i, lane), lane);
    ask_change<kTilesAhead>(a, from, walk, i + kTilesAhead, lane);
    if (lane % 4 < 2) s.change[slot][lane % 4 * 8 + lane / 4] = change;
    __syncwarp();
    if (lane == 0) gate_arrive(s.formed + slot);
  }
}
/// For the finishing warp: what is added to the block's tile i, in lanes 4g. `some` becomes false where that is
/// nothing.
__device__ __forceinline__ float2 take_change(LoraShared& s, int i, int tiles, bool& some, uint32_t lane) {
  if (!some) return {};
  const int slot = i % kChangesAhead;
  gate_wait(s.formed + slot, uint32_t(i / kChangesAhead) & 1u);
  some = s.some != 0;
  if (!some) return {};
  const float2 change = {s.change[slot][lane / 4], s.change[slot][8 + lane / 4]};
  __syncwarp();
  if (lane == 0 && i + kChangesAhead < tiles) gate_arrive(s.added + slot);
  return change;
}

}  // namespace bumblebee::cuda
