// Adapters within a chain of products (product_chain.h, StageLora). Which of A a block multiplies follows from what its
// warps have of x when they round it: each sums its runs of 32 octets by itself, from registers. A warp of its own does
// the rest: a link ahead it looks up what the slot does and asks for factors, then it tells all blocks the sums of this
// one's pieces, collects u, and forms what is added to each tile before the finishing warp wants it. Sums have the
// order of low_rank.cuh, and are their own sign of being there (product_lora.cuh). From x to the first tile all is one
// chain of dependent instructions of one warp, so what can be worked out before x is there, is.
#pragma once

#include "backend/cuda/kernels/product_lora.cuh"

namespace bumblebee::cuda {

static_assert(kConsumers == 2 * kPieceRuns, "a block's warps have the runs of two pieces");

__device__ __forceinline__ uint4* held_b(ChainLora& s) { return reinterpret_cast<uint4*>(&s + 1); }
__device__ __forceinline__ float* held_u(ChainLora& s) {
  return reinterpret_cast<float*>(held_b(s) + kChainTilesAhead * kWarp);
}

/// By one thread; others see it after a barrier.
__device__ __forceinline__ void init_gates(ChainLora& s) {
  for (int i = 0; i < kMostLinks; ++i) gate_init(s.found + i, 1), gate_init(s.summed + i, kConsumers);
  for (int i = 0; i < kChangesAhead; ++i) gate_init(s.formed + i, 1), gate_init(s.added + i, 1);
}

/// What the slot does to the modules of a link, by lanes.
__device__ __forceinline__ LoraTerm load_term(const ProductArgs& a, uint32_t lane) {
  return a.lora.ranks > 0 && int(lane) < a.terms ? a.lora.terms[a.lora.site[lane]] : LoraTerm();
}
/// What that is to link l and which runs the block has of it; L2 is asked for them.
__device__ __forceinline__ void find_link(const ProductArgs& a, ChainLora& s, int l, const LoraTerm& found,
                                          uint32_t lane) {
  const int at = l & 1, ranks = a.lora.ranks, octets = a.in / 8;
  if (ranks > 0 && int(lane) < a.terms) s.term[at][lane] = found;
  const bool some = __any_sync(0xffffffffu, found.site != nullptr);
  __syncwarp();
  if (lane < kMostRuns * kConsumers) {
    const int n = int(lane) / kConsumers, warp = int(lane) % kConsumers;
    const int item = int(blockIdx.x) + n * int(gridDim.x), of_warp = warp_runs_of(a.in);
    const int place = item / of_warp, run = (item - place * of_warp) * kConsumers + warp;
    RunOfA mine = {nullptr, -1};
    const bool there = some && place < a.terms * ranks && run * kWarp < octets;
    if (there) {
      const int term = place / ranks;
      const __nv_bfloat16* row = row_of_a(a, s.term[at][term], place - term * ranks);
      mine.octet = run * kWarp;
      if (row != nullptr) mine.a = row + run * kRunInputs;
    }
    s.run[at][n][warp] = mine;
    s.sum[at][n][warp] = 0.0f;
    if (warp % kPieceRuns == 0)
      s.word[at][n][warp / kPieceRuns] = there ? place * part_stride(a.pieces) + run / kPieceRuns : -1;
  }
  if (lane == 0) s.some[l] = some;
  __syncwarp();
  if (lane == 0) gate_arrive(s.found + l);
  constexpr int kLine = 128, kLines = kRunInputs * 2 / kLine;
  for (int i = int(lane); i < kMostRuns * kConsumers * kLines; i += kWarp) {
    const RunOfA& of = s.run[at][i / (kLines * kConsumers)][i / kLines % kConsumers];
    const int line = i % kLines;
    if (of.a != nullptr && of.octet + line * (kLine / 16) < octets)
      prefetch_l2(static_cast<const uint8_t*>(of.a) + line * kLine);
  }
}

/// What threads that round the row do for adapters: an octet a lane of each of the warp's runs, read before x is there.
/// They have few registers left.
template <int Runs>
struct RunsOfWarp {
  static constexpr int kNone = -1, kReady = -2;
  ChainLora* s;
  int link;                 // -1: nobody waits for this warp's sums
  mutable uint4 a[Runs];    // and then the lane's part of the sum
  mutable int first[Runs];  // octet of x, or one of these

  /// Unknown to the compiler, which would keep what follows from it from one link to the next, outside of registers.
  __device__ __forceinline__ int thread() const {
    int thread = int(threadIdx.x);
    asm volatile("" : "+r"(thread));
    return thread;
  }

  /// Called when x is there: only then may sums be told, since the words that they are told in are zero by now.
  __device__ __forceinline__ void begin() const {
    bool none = true;
#pragma unroll
    for (int n = 0; n < Runs; ++n) none = none && first[n] == kNone;
    if (none && link >= 0 && threadIdx.x % kWarp == 0) gate_arrive(s->summed + link);
  }
  __device__ __forceinline__ void operator()(int octet, const Eight& x) const {
#pragma unroll
    for (int n = 0; n < Runs; ++n) {
      if (octet - int(threadIdx.x % kWarp) != first[n]) continue;
      Bf16Octet factors;
      factors.v = a[n];
      a[n].x = __float_as_uint(dot_octet(widened(factors), x, 0.0f));
      first[n] = kReady;
    }
  }
  __device__ __forceinline__ void seen() const {
    bool some = false, all = true;
#pragma unroll
    for (int n = 0; n < Runs; ++n) {
      if (first[n] == kReady) {
        const float sum = warp_sum(__uint_as_float(a[n].x));
        if (threadIdx.x % kWarp == 0) s->sum[link & 1][n][threadIdx.x / kWarp] = sum;
        first[n] = kNone;
        some = true;
      }
      all = all && first[n] == kNone;
    }
    if (some && all && threadIdx.x % kWarp == 0) gate_arrive(s->summed + link);
  }
};
template <int Runs>
__device__ __forceinline__ RunsOfWarp<Runs> take_runs(const ProductArgs& a, ChainLora& s, int l, int warp,
                                                      uint32_t lane) {
  RunsOfWarp<Runs> r = {&s, -1, {}, {}};
#pragma unroll
  for (int n = 0; n < Runs; ++n) r.first[n] = RunsOfWarp<Runs>::kNone;
  if (a.lora.ranks == 0 || warp >= kConsumers) return r;
  r.link = l;
  gate_wait(s.found + l, 0);
#pragma unroll
  for (int n = 0; n < Runs; ++n) {
    const RunOfA of = s.run[l & 1][n][warp];
    if (of.a == nullptr) continue;  // the sum is zero by now
    r.first[n] = of.octet;
    if (of.octet + int(lane) < a.in / 8) r.a[n] = __ldg(static_cast<const uint4*>(of.a) + lane);
  }
  return r;
}

/// Tells all blocks the sums of this one's pieces.
__device__ __forceinline__ void tell_pieces(const ProductArgs& a, ChainLora& s, int l, uint32_t lane) {
  float* to = nullptr;
  const float4* from = nullptr;
  if (lane < 2 * kMostRuns) {
    const int word = s.word[l & 1][lane / 2][lane % 2];
    if (word >= 0) to = a.lora.parts + word;
    from = reinterpret_cast<const float4*>(&s.sum[l & 1][lane / 2][lane % 2 * kPieceRuns]);
  }
  gate_wait(s.summed + l, 0);
  if (to == nullptr) return;
  const float4 v = *from;
  const float sum = (((0.0f + v.x) + v.y) + v.z) + v.w;
  tell(to, sum == 0.0f ? -0.0f : sum);
}

/// u of a link, once all blocks have told their sums.
__device__ __forceinline__ void take_u(const ProductArgs& a, ChainLora& s, uint32_t lane) {
  constexpr int kRounds = 2;  // at once: what q, k and v of rank 16 have
  const int places = a.terms * a.lora.ranks, pieces = a.pieces, stride = part_stride(pieces);
#pragma unroll 1
  for (int first = int(lane); first - int(lane) < places; first += kRounds * kWarp) {
    float sum[kRounds] = {};
#pragma unroll 1
    for (int piece = 0; piece < pieces; piece += 12) {
      constexpr int kQuads = 3;
      float4 v[kRounds][kQuads] = {};
      bool all;
      do {
        all = true;
#pragma unroll
        for (int j = 0; j < kQuads; ++j)
#pragma unroll
          for (int i = 0; i < kRounds; ++i)
            if (piece + 4 * j < pieces && first + i * kWarp < places)
              v[i][j] = look(a.lora.parts + (first + i * kWarp) * stride + piece + 4 * j);
#pragma unroll
        for (int j = 0; j < kQuads; ++j) {
          const int left = pieces - piece - 4 * j;
          if (left <= 0) continue;
#pragma unroll
          for (int i = 0; i < kRounds; ++i)
            all = all &&
                  (first + i * kWarp >= places ||
                   (__float_as_uint(v[i][j].x) != 0 && (left < 2 || __float_as_uint(v[i][j].y) != 0) &&
                    (left < 3 || __float_as_uint(v[i][j].z) != 0) && (left < 4 || __float_as_uint(v[i][j].w) != 0)));
        }
      } while (!__all_sync(0xffffffffu, all));
#pragma unroll
      for (int j = 0; j < kQuads; ++j)
        if (piece + 4 * j < pieces) {
#pragma unroll
          for (int i = 0; i < kRounds; ++i) sum[i] = (((sum[i] + v[i][j].x) + v[i][j].y) + v[i][j].z) + v[i][j].w;
        }
    }
#pragma unroll
    for (int i = 0; i < kRounds; ++i)
      if (first + i * kWarp < places) held_u(s)[first + i * kWarp] = sum[i];
  }
  __syncwarp();
}

/// A link as the warp of adapters sees it: which tiles the block has.
struct LinkTiles {
  TileWalk walk;
  int count;
};
/// Asks for B of the first tiles of link l, once find_link() has been there.
__device__ __forceinline__ void ask_changes(const ProductArgs& a, ChainLora& s, int l, const LinkTiles& tiles,
                                            uint32_t lane) {
  if (s.some[l] == 0) return;
  const ChangeFrom from = {s.term[l & 1], held_b(s), held_u(s)};
#pragma unroll 1
  for (int i = 0; i < kChainTilesAhead; ++i)
    if (i < tiles.count)
      ask_change<kChainTilesAhead>(a, from, tiles.walk, i, lane);
    else
      copy_async_commit();
}
/// The rest of what is to be done for link l, once its sums are told. `formed` counts the changes that the block has
/// formed.
__device__ __forceinline__ void form_changes(const ProductArgs& a, ChainLora& s, int l, const LinkTiles& tiles,
                                             int& formed, uint32_t lane) {
  if (s.some[l] == 0 || tiles.count == 0) return;
  const ChangeFrom from = {s.term[l & 1], held_b(s), held_u(s)};
#pragma unroll 1
  for (int i = -1;;) {
    const LaneFactors factors = take_factors<kChainTilesAhead>(a, from, tiles.walk, i + 1, lane);
    if (i < 0) take_u(a, s, lane);
    if (++i == tiles.count) return;
    const int slot = formed % kChangesAhead;
    const float change = form_change(from, factors, lane);
    if (formed >= kChangesAhead) gate_wait(s.added + slot, uint32_t(formed / kChangesAhead - 1) & 1u);
    if (lane % 4 < 2) s.change[slot][lane % 4 * 8 + lane / 4] = change;
    __syncwarp();
    if (lane == 0) gate_arrive(s.formed + slot);
    ++formed;
    ask_change<kChainTilesAhead>(a, from, tiles.walk, i + kChainTilesAhead, lane);
  }
}

/// For the finishing warp: whether the slot adds anything to link l. Called once x is rounded, by all of the warp.
__device__ __forceinline__ bool begin_changes(const ProductArgs& a, ChainLora& s, int l, uint32_t lane) {
  if (a.lora.ranks == 0) return false;
  for (int i = int(blockIdx.x) * kWarp + int(lane); i < kLoraParts / 4; i += int(gridDim.x) * kWarp)
    __stcg(reinterpret_cast<float4*>(a.lora.stale) + i, float4{});
  gate_wait(s.found + l, 0);
  return s.some[l] != 0;
}
/// What is added to the tile that comes after `formed` others, in lanes 4g.
__device__ __forceinline__ float2 take_change(ChainLora& s, int formed, uint32_t lane) {
  const int slot = formed % kChangesAhead;
  gate_wait(s.formed + slot, uint32_t(formed / kChangesAhead) & 1u);
  const float2 change = {s.change[slot][lane / 4], s.change[slot][8 + lane / 4]};
  __syncwarp();
  if (lane == 0) gate_arrive(s.added + slot);
  return change;
}

}  // namespace bumblebee::cuda
