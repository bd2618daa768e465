// Attention of few rows on tensor cores, over pages of bf16 and int8 with heads of 64 or 128 features. A block has up
// to four query heads that share keys, so that these are read once. A warp goes over tiles of 16 tokens
// (past_tile.cuh): scores are keys times queries, results are values times weights. Queries and weights are the sum of
// two bf16 numbers each: the eight columns of an instruction are two for each of four heads.
//
// A past is always summed in the same strands, those of a block joined at once, and blocks' results after each other:
// whether one block does all of it or several. So a row's bits are the same in any batch.
#pragma once

#include <cmath>

#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/past_tile.cuh"
#include "backend/cuda/kernels/product_plan.h"
#include "backend/cuda/kernels/rotate.cuh"

namespace bumblebee::cuda {

inline constexpr int kMmaHeads = 4;  // of a block
inline constexpr int kMmaThreads = kPastWarps * kWarp;
/// Three blocks find room on a multiprocessor, and one beside a block of a chain of products.
inline constexpr int kMmaRegisters = 168;
/// Of many rows, which are more blocks than that: four find room.
inline constexpr int kMmaRegistersOfMany = 128;
/// Up to so many tiles a row lets the kernel behind begin before it waits.
inline constexpr int kShortPast = 200;
inline constexpr float kLog2E = 1.4426950408889634f;
/// How far a score may be above what sums are relative to, in powers of two, before that is raised.
inline constexpr float kHeadroom = 8;

/// Lane 4g + t has of an 8 by 8 matrix of 16 bits row g, columns 2t and 2t + 1; then of the transposed one.
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// So little that a block of a chain of products with adapters finds room beside (product_plan.h).
template <int Dim>
struct MmaShared {
  float4 parts[kPastWarps][kMmaHeads][Dim / 4];  // of strands
  float2 heads[kPastWarps][kMmaHeads];           // their base and total
  uint4 queries[Dim / 32][kWarp];                // as scores take them
  bool is_last;

  // What rotation leaves, in what strands take later: queries, and the new token as pages have it (key, value), its
  // step behind it. Before them lie its tables, beside them what the warps that make the token work on.
  __device__ __forceinline__ float4* turned(int head) { return parts[1][head]; }
  __device__ __forceinline__ uint8_t* fresh(int which) { return reinterpret_cast<uint8_t*>(parts[2 + which][1]); }
};

/// Softmaxes that are not finished, of the head that a lane's columns are: the number that scores are relative to, in
/// powers of two; of a lane's own tokens Σ 2^(score - base); and Σ of that times v, two columns of which are one
/// number.
template <int Dim>
struct MmaSums {
  float base = -INFINITY, total = 0, out[Dim / 16][4] = {};
};

/// One tile more, of which tokens from `begin` to before `end` are seen. Asks for what comes in its place as soon as
/// registers are free: for keys, then values.
template <class T, int Dim, class NextKeys, class NextValues>
__device__ __forceinline__ void add_tile(PastTile<T, Dim>& tile, const uint4 (&queries)[Dim / 32][kWarp], float scale,
                                         int begin, int end, int lane, MmaSums<Dim>& sums, const NextKeys& next_keys,
                                         const NextValues& next_values) {
  float c[4] = {}, d[4] = {};
#pragma unroll
  for (int j = 0; j < Dim / 32; ++j) {
    uint32_t low[4], high[4];
    tile.key[0][j].pairs(low);
    tile.key[1][j].pairs(high);
    const uint32_t first[4] = {low[0], high[0], low[1], high[1]}, second[4] = {low[2], high[2], low[3], high[3]};
    const uint4 query = queries[j][lane];
    multiply_bf16(c, first, query.x, query.y);
    multiply_bf16(d, second, query.z, query.w);
  }
  float score[2] = {((c[0] + d[0]) + (c[1] + d[1])) * scale, ((c[2] + d[2]) + (c[3] + d[3])) * scale}, step[2] = {1, 1};
  if constexpr (sizeof(T) == 1) {
#pragma unroll
    for (int r = 0; r < 2; ++r) score[r] *= tile.key_step[r], step[r] = tile.value_step[r];
  }
  next_keys();
  const int token = lane / 4;
  const bool seen[2] = {token >= begin && token < end, token + 8 >= begin && token + 8 < end};
  const float most = fmaxf(seen[0] ? score[0] : -INFINITY, seen[1] ? score[1] : -INFINITY);
  if (__any_sync(0xffffffffu, most > sums.base + kHeadroom)) {
    float base = fmaxf(sums.base, most);
#pragma unroll
    for (int offset = 4; offset < kWarp; offset *= 2) base = fmaxf(base, __shfl_xor_sync(0xffffffffu, base, offset));
    const float shrink = base == sums.base ? 1.0f : exp2_fast(sums.base - base);
    sums.base = base;
    sums.total *= shrink;
#pragma unroll
    for (int i = 0; i < Dim / 16; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums.out[i][e] *= shrink;
  }
  uint32_t weights[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float p = seen[r] ? exp2_fast(score[r] - sums.base) : 0.0f;
    sums.total += p;
    const float weight = seen[r] ? p * step[r] : 0.0f;  // steps of what is not seen may be anything
    const float high = __bfloat162float(__float2bfloat16_rn(weight));
    weights[r] = transpose(pack_bf16(high, weight - high));
  }
#pragma unroll
  for (int h = 0; h < Dim / 64; ++h) {
    uint32_t v[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) tile.value[h][i].pairs(v[i]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const uint32_t of[4] = {__byte_perm(v[0][e], v[1][e], 0x5410), __byte_perm(v[0][e], v[1][e], 0x7632),
                              __byte_perm(v[2][e], v[3][e], 0x5410), __byte_perm(v[2][e], v[3][e], 0x7632)};
      multiply_bf16(sums.out[4 * h + e], of, weights[0], weights[1]);
    }
  }
  next_values();
}

/// Factors of what is there and of what comes when softmaxes are joined after each other. NaN goes on, and what saw
/// nothing adds nothing.
struct JoinFactors {
  float base, old, add;
};
__device__ __forceinline__ JoinFactors join_factors(float before, float base, float total) {
  const float most = total != 0 ? fmaxf(before, base) : before;
  return {most, most == before ? 1.0f : exp2_fast(before - most), total != 0 ? exp2_fast(base - most) : 0.0f};
}
/// Some elements of one head.
template <int Each>
struct MmaJoined {
  float base = -INFINITY, total = 0, out[Each] = {};

  __device__ __forceinline__ void add(const JoinFactors& f, float more_total, const float (&more)[Each]) {
    base = f.base;
    total = fmaf(more_total, f.add, total * f.old);
#pragma unroll
    for (int i = 0; i < Each; ++i) out[i] = fmaf(more[i], f.add, out[i] * f.old);
  }
};

/// The strands of a block, left there by its warps, at once.
template <class Shared, int Each>
__device__ __forceinline__ void join_strands(const Shared& s, int head, int element, float& base, float& total,
                                             float (&out)[Each]) {
  base = -INFINITY, total = 0;
#pragma unroll
  for (int w = 0; w < kPastWarps; ++w)
    if (s.heads[w][head].y != 0) base = fmaxf(base, s.heads[w][head].x);
#pragma unroll
  for (int w = 0; w < kPastWarps; ++w) {
    const float2 one = s.heads[w][head];
    const float weight = one.y != 0 ? exp2_fast(one.x - base) : 0.0f;
    const float* const from = reinterpret_cast<const float*>(s.parts[w][head]) + element;
    total = fmaf(one.y, weight, total);
#pragma unroll
    for (int i = 0; i < Each; ++i) out[i] = fmaf(from[i], weight, out[i]);
  }
}

/// What blocks left, after each other. Lane s knows split s, and what joining has to know of those before it.
template <int Dim, int Each>
__device__ __forceinline__ void join_splits(const float2* heads, const float* out, int splits, int lane,
                                            MmaJoined<Each>& all) {
  const float2 mine = lane < splits ? __ldcg(heads + lane) : float2{-INFINITY, 0};
  float some[kPastSplits][Each];  // all are on their way at once
#pragma unroll
  for (int n = 0; n < kPastSplits; ++n) {
#pragma unroll
    for (int i = 0; i < Each; i += 2) {
      if (n >= splits) continue;
      const float2 v = __ldcg(reinterpret_cast<const float2*>(out + n * Dim + i));
      some[n][i] = v.x, some[n][i + 1] = v.y;
    }
  }
  float largest = mine.y != 0 ? mine.x : -INFINITY;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const float other = __shfl_up_sync(0xffffffffu, largest, offset);
    if (lane >= offset) largest = fmaxf(largest, other);
  }
  const float before = __shfl_up_sync(0xffffffffu, largest, 1);
  const JoinFactors own = join_factors(lane > 0 ? before : -INFINITY, mine.x, mine.y);
#pragma unroll
  for (int n = 0; n < kPastSplits; ++n) {
    if (n >= splits) continue;
    all.add({__shfl_sync(0xffffffffu, own.base, n), __shfl_sync(0xffffffffu, own.old, n),
             __shfl_sync(0xffffffffu, own.add, n)},
            __shfl_sync(0xffffffffu, mine.y, n), some[n]);
  }
}

/// A warp leaves a strand for the others.
template <class Shared, int Dim>
__device__ __forceinline__ void leave_strand(Shared& s, MmaSums<Dim>& sums, int warp, int lane) {
#pragma unroll
  for (int offset = 4; offset < kWarp; offset *= 2) sums.total += __shfl_xor_sync(0xffffffffu, sums.total, offset);
  if (lane < 4) s.heads[warp][lane] = {sums.base, sums.total};
#pragma unroll
  for (int i = 0; i < Dim / 16; i += 2) {
    const float(&a)[4] = sums.out[i], (&b)[4] = sums.out[i + 1];
    s.parts[warp][lane % 4][i / 4 * 16 + lane / 4 * 2 + i / 2 % 2] = {a[0] + a[1], a[2] + a[3], b[0] + b[1],
                                                                      b[2] + b[3]};
  }
}

/// Cosines, sines and norms of a row on their way to rotate_row(), in what strands take later.
template <int Dim>
struct RotationTables {
  float cosine[Dim / 2], sine[Dim / 2], norm[2][Dim];
};
template <int Dim>
__device__ inline void prepare_rotation(const AttendRotation& a, const BatchView& batch, int row,
                                        RotationTables<Dim>& tables, int warp, int lane) {
  if (warp > 1) return;
  const HeadRows& heads = warp == 0 ? a.q : a.k;
  const auto r = rotation_of<Dim>(a.rope, heads.norm, Dim, batch.positions[row], lane);
#pragma unroll
  for (int j = 0; warp == 0 && j < Dim / 2 / kWarp; ++j)
    tables.cosine[lane + j * kWarp] = r.cosine[j], tables.sine[lane + j * kWarp] = r.sine[j];
#pragma unroll
  for (int j = 0; heads.norm != nullptr && j < Dim / kWarp; ++j)
    tables.norm[warp][lane + j * kWarp] = __ldg(heads.norm + lane + j * kWarp);
}
/// A warp norms and rotates head `head` of all queries (which 0) or keys of the batch, of which it has x, to `to`;
/// `writes`: and to memory.
template <int Dim>
__device__ inline void turn_head(const AttendRotation& a, const RotationTables<Dim>& tables, int which, int head,
                                 const HeadLane<Dim>& x, int lane, float* to, bool writes) {
  const HeadRows& heads = which == 0 ? a.q : a.k;
  const size_t at = size_t(head) * Dim;
  Rotation<Dim> r = {};
  r.norm = head_lane<Dim>(Dim, a.rope.half, lane, [&](int i) { return tables.norm[which][i]; });
#pragma unroll
  for (int j = 0; j < Dim / 2 / kWarp; ++j)
    r.cosine[j] = tables.cosine[lane + j * kWarp], r.sine[j] = tables.sine[lane + j * kWarp];
  norm_rope_head(heads, heads.x + at, x, Dim, a.rope.half, r, lane, to);
#pragma unroll
  for (int j = 0; writes && j < Dim / kWarp; ++j) __stcg(heads.y + at + lane + j * kWarp, to[lane + j * kWarp]);
}
/// All that comes before attention of a row that is its sequence's only one: each block turns its own queries, and one
/// of a head of keys
/// (`newest`) the new token, which it leaves for itself too: memory would take its time. Warp w has query head `head` +
/// w where `mine`.
template <class T, int Dim, class Shared>
__device__ inline void rotate_row(const AttendArgs& a, const AttendRotation& rotation, const BatchView& batch, int row,
                                  int head, bool mine, int kv_head, bool newest, Shared& s, int warp, int lane) {
  const RotationTables<Dim>& tables = reinterpret_cast<const RotationTables<Dim>&>(s.parts[0]);
  const auto load = [&](const float* x, int half) {
    return head_lane<Dim>(Dim, half, lane, [&](int i) { return __ldcg(x + i); });
  };
  const bool of_token = newest && warp >= 2;  // keys, values
  const int query_head = row * rotation.q.heads + head, token_head = row * rotation.k.heads + kv_head;
  HeadLane<Dim> token = {}, query = {};
  if (of_token)
    token = warp == 2 ? load(rotation.k.x + size_t(token_head) * Dim, rotation.rope.half)
                      : load(rotation.v + size_t(token_head) * Dim, 0);
  if (mine) query = load(rotation.q.x + size_t(query_head) * Dim, rotation.rope.half);
  if (of_token) {
    float* const scratch = reinterpret_cast<float*>(s.parts[warp][0]);
    if (warp == 2) {
      turn_head<Dim>(rotation, tables, 1, token_head, token, lane, scratch, true);
    } else {
#pragma unroll
      for (int j = 0; j < Dim / kWarp; ++j) scratch[lane + j * kWarp] = token.rest[j];
      __syncwarp();
    }
    KvView alone = a.kv;
    alone.head_dim = Dim, alone.scales_at = Dim * sizeof(T);
    store_head<T, false>(alone, scratch, s.fresh(warp - 2), 0, lane);
    append<T, false>(a.kv, warp - 2, kv_head, place_of_row(a.kv, batch, row), scratch, lane);
  }
  if (mine)
    turn_head<Dim>(rotation, tables, 0, query_head, query, lane, reinterpret_cast<float*>(s.turned(warp)),
                   blockIdx.z == 0);
}

/// 32 features of four heads as scores take them: column g of a product is head g / 2, its high part or its low one.
/// `from`: of this lane's head, or null.
template <class Load>
__device__ __forceinline__ uint4 query_octets(const float4* from, int lane, const Load& load) {
  const float4 x = from != nullptr ? load(from) : float4{}, y = from != nullptr ? load(from + 1) : float4{};
  const float2 pair[4] = {{x.x, x.y}, {x.z, x.w}, {y.x, y.y}, {y.z, y.w}};
  uint32_t part[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t high, low;
    split_bf16(pair[i], high, low);
    part[i] = lane / 4 % 2 == 0 ? high : low;
  }
  return {part[0], part[1], part[2], part[3]};
}

/// Grid: rows (those of batch.lone_rows, where `lone`), kv heads times sets of query heads, blocks of a row that take
/// its splits in turn. Partials [rows, heads, splits]{base, total}, then [rows, heads, splits, Dim]; the block that
/// finishes last joins them. `fresh`: so many of a row's last tokens may have been written in this step.
template <class T, int Dim, bool Rotates, int Registers = kMmaRegisters>
__global__ void __maxnreg__(Registers) attend_mma_kernel(AttendArgs a, AttendRotation rotation, BatchView batch,
                                                         AttendWorkspace workspace, bool lone, int fresh) {
  constexpr int kEach = kMmaHeads * Dim / kMmaThreads;  // elements that a thread joins, of one head
  // Of many rows a block has all splits of a row, and registers for a tile when queries are there.
  constexpr bool kMany = Registers == kMmaRegistersOfMany;
  __shared__ MmaShared<Dim> s;
  static_assert(Dim * sizeof(T) + sizeof(uint4) <= (kMmaHeads - 1) * sizeof(s.parts[0][0]));  // fresh()
  static_assert(sizeof(s) <= kBesideChain);
  const int per_kv = a.heads / a.kv.kv_heads, sets = (per_kv + kMmaHeads - 1) / kMmaHeads;
  const int row = lone ? batch.lone_rows[blockIdx.x] : int(blockIdx.x), kv_head = int(blockIdx.y) / sets,
            set = int(blockIdx.y) % sets, warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int first_head = kv_head * per_kv + set * kMmaHeads, heads = min(kMmaHeads, per_kv - set * kMmaHeads);
  const int stride = int(gridDim.z);
  const PastView past = past_view(a, batch, row);
  const int splits = past.splits();
  const bool alone = kMany || stride == 1 || splits == 1;
  int split = int(blockIdx.z);
  if (split >= splits) return;  // others wait for what came earlier

  const size_t values_at = size_t(a.kv.kv_heads) * a.kv.head_bytes;
  PastTile<T, Dim> tile;
  int first = past.first_of(split * kPastWarps + warp);  // of this strand
  TileAddress places = look_up_tiles<T>(a.kv, past, kv_head, first, lane);
  const auto ask_keys = [&](const TileAddress& at) {
    if (at.keys != nullptr) tile.ask_keys(a.kv, at, values_at, lane);
  };
  const auto ask_values = [&](const TileAddress& at, int of) {
    if (at.keys != nullptr) tile.ask_values(at, values_at, past.first_token(of), past.end_token(of), lane);
  };
  // The first tile is asked for before the wait where nothing of it is new, or that is replaced.
  const bool early = !kMany && (Rotates || past.end_token(first) - fresh >= kPastTokens);
  const TileAddress place = places.of_lane(0);
  if (early) ask_keys(place), ask_values(place, first);
  if (kMany) prefetch_tile<T, Dim>(place, values_at, lane);
  RotationTables<Dim>& tables = reinterpret_cast<RotationTables<Dim>&>(s.parts[0]);
  static_assert(sizeof(tables) <= sizeof(s.parts[0]));
  if constexpr (Rotates) {
    prepare_rotation<Dim>(rotation, batch, row, tables, warp, lane);
    __syncthreads();
  }
  // A chain of products that follows takes a multiprocessor as soon as the one before has left it, and asks for
  // weights. That is in the way of a long past, until all of it has been asked for.
  const bool brief = past.tiles <= kShortPast;
  if (brief) launch_dependents();
  wait_for_inputs();
  if constexpr (Rotates) {
    const int newest = (past.tiles - 1) % kPastStrands / kPastWarps;
    rotate_row<T, Dim>(a, rotation, batch, row, first_head + warp, warp < heads, kv_head,
                       newest % stride == int(blockIdx.z), s, warp, lane);
    __syncthreads();
    if (early && first == past.tiles - 1) tile.replace(past.last - first * kPastTokens, s.fresh(0), s.fresh(1), lane);
  }
  if (!early) ask_keys(place), ask_values(place, first);

  const auto index_of = [&](int head) { return size_t(row) * size_t(a.heads) + size_t(first_head + head); };
  for (int j = warp; j < Dim / 32; j += kPastWarps) {
    const int head = lane / 8, at = lane % 4 * 2 + 8 * j;
    const float4* from =
        Rotates ? s.turned(head) + at : reinterpret_cast<const float4*>(a.q + index_of(head) * Dim) + at;
    if (head >= heads) from = nullptr;
    s.queries[j][lane] = query_octets(from, lane, [](const float4* x) { return Rotates ? *x : __ldcg(x); });
  }
  __syncthreads();

  const int head = int(threadIdx.x) * kEach / Dim, element = int(threadIdx.x) * kEach % Dim;  // what this thread joins
  const bool joins = head < heads;
  float2* const partial_heads = reinterpret_cast<float2*>(workspace.partials) + index_of(head) * kPastSplits;
  float* const partial_out = workspace.partials + size_t(batch.rows) * size_t(a.heads) * kPastSplits * 2 +
                             index_of(head) * kPastSplits * Dim + element;
  MmaJoined<kEach> all;
#pragma unroll 1
  for (; split < splits; split += stride) {
    MmaSums<Dim> sums;
    const bool last_split = split + stride >= splits;
    const int count = max(0, (past.tiles - first + kPastStrands - 1) / kPastStrands);
    const int first_then = last_split ? past.tiles : past.first_of((split + stride) * kPastWarps + warp);
    const TileAddress places_then = look_up_tiles<T>(a.kv, past, kv_head, first_then, lane);
#pragma unroll 1
    for (int n = 0; n < count; ++n) {
      const int at = first + n * kPastStrands, next = n + 1 < count ? at + kPastStrands : first_then;
      if ((n + 1) % kWarp == 0) places = look_up_tiles<T>(a.kv, past, kv_head, at + kPastStrands, lane);
      const TileAddress there = n + 1 < count ? places.of_lane((n + 1) % kWarp) : places_then.of_lane(0);
      prefetch_tile<T, Dim>(there, values_at, lane);
      add_tile<T, Dim>(
          tile, s.queries, a.scale * kLog2E, past.first_token(at), past.end_token(at), lane, sums,
          [&] { ask_keys(there); }, [&] { ask_values(there, next); });
    }
    if (count == 0) {  // a window left nothing to this strand
      const TileAddress there = places_then.of_lane(0);
      ask_keys(there), ask_values(there, first_then);
    }
    first = first_then, places = places_then;
    if (!brief && last_split) launch_dependents();
    leave_strand(s, sums, warp, lane);
    __syncthreads();
    float base, total, out[kEach] = {};
    join_strands(s, head, element, base, total, out);
    if (alone) {
      all.add(join_factors(all.base, base, total), total, out);
    } else if (joins) {
      if (element == 0) __stcg(partial_heads + split, float2{base, total});
#pragma unroll
      for (int i = 0; i < kEach; i += 2)
        __stcg(reinterpret_cast<float2*>(partial_out + size_t(split) * Dim + i), float2{out[i], out[i + 1]});
    }
    if (!last_split) __syncthreads();
  }
  if (!alone) {
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t* const arrived = workspace.arrived + row * int(gridDim.y) + int(blockIdx.y);
      s.is_last = add_to_counter(arrived) + 1 == uint32_t(min(splits, stride));
      if (s.is_last) *arrived = 0;
    }
    __syncthreads();
    if (!s.is_last || !joins) return;
    join_splits<Dim>(partial_heads, partial_out, splits, lane, all);
  }
  if (!joins) return;
  const float sink = a.sinks == nullptr ? -INFINITY : __ldg(a.sinks + first_head + head) * kLog2E;
  if (sink != -INFINITY) {  // of a padded row all is -inf
    const float none[kEach] = {};
    all.add(join_factors(all.base, sink, 1), 1, none);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    __stcg(a.out + index_of(head) * Dim + element + i, all.total != 0 ? all.out[i] / all.total : 0.0f);
}

}  // namespace bumblebee::cuda
