// Attention of many rows of a sequence at once, on tensor cores: a block has a tile of (row, query head) pairs that
// share keys and values, and goes over the keys of its rows in tiles that begin at fixed positions of the sequence,
// with an online softmax in f32. What a row does not see adds exact zeros, so its bits do not depend on the rows of its
// tile. Queries are the sum of two bf16 numbers, probabilities are one, keys and values what the pages have.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "backend/cuda/kernels/attend_tiles.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/mma.cuh"
#include "backend/cuda/kernels/pages.cuh"

namespace bumblebee::cuda {

/// Dim: elements of a head, filled up with zeros.
template <int Dim>
struct AttendTile {
  static constexpr int kWarps = Dim <= 128 ? 8 : 4, kThreads = kWarps * kWarp, kPairs = kWarps * 16;
  static constexpr int kKeys = Dim <= 128 ? 64 : 32, kStages = 3;
  static constexpr int kPitch = Dim * 2 + 16;      // bytes of a row in shared memory: ldmatrix without conflicts
  static constexpr int kLanes = kThreads / kKeys;  // threads that copy one token
  static constexpr bool kQueriesInShared = Dim > 128;
  static constexpr size_t kStageBytes = size_t(2) * kKeys * kPitch,
                          kQueryBytes = kQueriesInShared ? 2 * kPairs * kPitch : 0;
  static constexpr size_t kShared = kStages * (kStageBytes + 2 * kKeys * sizeof(float)) + kQueryBytes;
};

/// The segment and the first of its rows that block `tile` has; every warp finds it by itself. No rows: there are fewer
/// tiles.
struct TilePlace {
  SegmentView segment;
  int first;
};
__device__ inline TilePlace find_tile(const BatchView& batch, int tile, int rows) {
  const int lane = int(threadIdx.x) % kWarp;
  for (int base = 0; base < batch.segment_count; base += kWarp) {
    const int index = base + lane;
    const int count = index < batch.segment_count ? (batch.segments[index].rows + rows - 1) / rows : 0;
    int end = count;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, end, offset);
      if (lane >= offset) end += before;
    }
    const unsigned found = __ballot_sync(0xffffffffu, end > tile);
    if (found != 0) {
      const int owner = __ffs(int(found)) - 1;
      const int begin = __shfl_sync(0xffffffffu, end - count, owner);
      return {batch.segments[base + owner], (tile - begin) * rows};
    }
    tile -= __shfl_sync(0xffffffffu, end, kWarp - 1);
  }
  return {};
}

/// Brings tokens of one head's keys and values to shared memory: a thread has a share of one token.
template <class T, int Dim>
struct TileCopy {
  using Tile = AttendTile<Dim>;
  static constexpr bool kWiden = sizeof(T) == 1;
  static constexpr int kChunks = Dim * int(sizeof(T)) / 16, kMine = (kChunks + Tile::kLanes - 1) / Tile::kLanes;
  const KvView& kv;
  const uint8_t* const* pages;
  int head, begin, last;  // tokens that some row sees
  uint32_t shared;
  uint4 raw[2][kWiden ? kMine : 1];
  float step[2];
  const uint8_t* page = nullptr;
  int in_page = 0;

  __device__ static int token() { return int(threadIdx.x) / Tile::kLanes; }
  __device__ static int lane() { return int(threadIdx.x) % Tile::kLanes; }
  __device__ uint32_t row_at(int stage, int which) const {
    return shared + uint32_t(stage) * uint32_t(Tile::kStageBytes) +
           uint32_t((which * Tile::kKeys + token()) * Tile::kPitch);
  }
  __device__ static float* steps_at(unsigned char* memory, int stage, int which) {
    return reinterpret_cast<float*>(memory + Tile::kStages * Tile::kStageBytes) + (stage * 2 + which) * Tile::kKeys;
  }

  /// Looks up the page of this thread's token of the tile at `key`; null where no row sees it.
  __device__ __forceinline__ void look_up(int key) {
    const int t = key + token();
    const bool seen = t >= begin && t <= last;
    const int number = t / kv.page_size;
    in_page = t - number * kv.page_size;
    page = seen ? pages[number] : nullptr;
  }
  __device__ __forceinline__ const uint8_t* head_start(int which) const { return head_at(kv, page, which, head); }
  /// 16-bit elements: asks for what was looked up.
  __device__ __forceinline__ void copy(int stage) const {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const uint8_t* const from = head_start(which) + size_t(in_page) * size_t(kv.head_dim) * sizeof(T);
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int chunk = lane() + i * Tile::kLanes;
        const bool there = page != nullptr && chunk * 16 < kv.head_dim * int(sizeof(T));
        if (chunk < kChunks)
          copy_async_or_zero(row_at(stage, which) + uint32_t(chunk * 16), there ? from + chunk * 16 : batch_memory(),
                             there);
      }
    }
  }
  /// int8: loads what was looked up to registers, and stores it as bf16 later.
  __device__ __forceinline__ void load() {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const uint8_t* const from = head_start(which);
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int chunk = lane() + i * Tile::kLanes;
        const bool there = page != nullptr && chunk * 16 < kv.head_dim;
        raw[which][i] =
            there ? __ldcg(reinterpret_cast<const uint4*>(from + size_t(in_page) * size_t(kv.head_dim)) + chunk)
                  : uint4{0, 0, 0, 0};
      }
      step[which] = page != nullptr ? __ldcg(reinterpret_cast<const float*>(from + kv.scales_at) + in_page) : 0.0f;
    }
  }
  __device__ __forceinline__ void store(unsigned char* memory, int stage) const {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int chunk = lane() + i * Tile::kLanes;
        if (chunk >= kChunks) continue;
        const uint32_t word[4] = {raw[which][i].x, raw[which][i].y, raw[which][i].z, raw[which][i].w};
        uint32_t pair[8];
#pragma unroll
        for (int w = 0; w < 8; ++w) {
          const uint32_t biased = word[w / 2] ^ 0x80808080u;
          const float low = number(biased, w % 2 * 2), high = number(biased, w % 2 * 2 + 1);
          pair[w] = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);  // exact: upper halves
        }
        const uint32_t to = row_at(stage, which) + uint32_t(chunk * 32);
        asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(pair[0]), "r"(pair[1]), "r"(pair[2]),
                     "r"(pair[3])
                     : "memory");
        asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to + 16), "r"(pair[4]), "r"(pair[5]), "r"(pair[6]),
                     "r"(pair[7])
                     : "memory");
      }
      if (lane() == 0) steps_at(memory, stage, which)[token()] = step[which];
    }
  }

 private:
  __device__ __forceinline__ const void* batch_memory() const { return pages; }  // anything that may be named
  static __device__ __forceinline__ float number(uint32_t biased, int byte) {
    return __uint_as_float(__byte_perm(biased, 0x4b000000u, 0x7540u | uint32_t(byte))) - (8388608.0f + 128.0f);
  }
};

/// One of the two rows of the fragments that a thread has.
struct TileRow {
  int position = -1, begin = 0;  // sees tokens from begin to position; -1: none
  size_t at = 0;                 // of its head in q and out
  float most = -INFINITY, total = 0;
};

template <class T, int Dim, bool Capped>
__global__ void __launch_bounds__(AttendTile<Dim>::kThreads, 1)
    attend_tiles_kernel(AttendArgs a, BatchView batch, int set_heads) {
  using Tile = AttendTile<Dim>;
  constexpr int kKeys = Tile::kKeys, kSteps = Dim / 16, kPitch = Tile::kPitch;
  constexpr bool kWiden = sizeof(T) == 1;
  extern __shared__ __align__(16) unsigned char memory[];
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const int per_kv = a.heads / a.kv.kv_heads, sets = (per_kv + set_heads - 1) / set_heads;
  const int kv_head = int(blockIdx.x) / sets, head0 = int(blockIdx.x) % sets * set_heads;
  const int tile_heads = min(set_heads, per_kv - head0), tile_rows = Tile::kPairs / set_heads;
  // Rows with a long past first: they take longest.
  const TilePlace place = find_tile(batch, int(gridDim.y - 1 - blockIdx.y), tile_rows);
  const SegmentView& segment = place.segment;
  if (segment.rows == 0) return;
  const int rows = min(tile_rows, segment.rows - place.first), dim = a.kv.head_dim;

  TileRow row[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int pair = warp * 16 + g + h * 8, r = pair / tile_heads;
    if (r >= rows) continue;
    row[h].position = segment.past + place.first + r;
    row[h].begin = a.window > 0 ? max(0, row[h].position - a.window + 1) : 0;
    row[h].at = (size_t(segment.first + place.first + r) * size_t(a.heads) +
                 size_t(kv_head * per_kv + head0 + pair % tile_heads)) *
                size_t(dim);
  }
  const int newest = segment.past + place.first + rows - 1, oldest = segment.past + place.first;
  const int begin = a.window > 0 ? max(0, oldest - a.window + 1) : 0;
  // Of the warp's rows: the last token that any sees, and the tokens that all see.
  const int warp_first = warp * 16 / tile_heads, warp_last = min(rows - 1, (warp * 16 + 15) / tile_heads);
  const int warp_newest = warp_first < rows ? oldest + warp_last : -1,
            all_newest = warp_last < (warp * 16 + 15) / tile_heads ? -1 : oldest + warp_first;
  const int all_begin = a.window > 0 ? max(0, oldest + warp_last - a.window + 1) : 0;

  TileCopy<T, Dim> copies{a.kv,   batch.pages + segment.first_page, kv_head, begin,
                          newest, shared_address(memory),           {},      {}};
  const int first_key = begin / kKeys * kKeys, tiles = (newest - first_key) / kKeys + 1;

  // Queries, times scale·log2 e: scores are then exponents of 2.
  uint32_t q_high[Tile::kQueriesInShared ? 1 : kSteps][4], q_low[Tile::kQueriesInShared ? 1 : kSteps][4];
  const uint32_t queries = shared_address(memory) + uint32_t(Tile::kShared - Tile::kQueryBytes);
  constexpr float kLog2E = 1.4426950408889634f;
  const float unit = a.scale * kLog2E;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int h = i % 2, column = s * 16 + i / 2 * 8 + 2 * t;
      float2 v = {0, 0};
      if (row[h].position >= 0 && column < dim)
        v = __ldcg(reinterpret_cast<const float2*>(a.q + row[h].at + size_t(column)));
      uint32_t high, low;
      split_bf16({v.x * unit, v.y * unit}, high, low);
      if constexpr (Tile::kQueriesInShared) {
        const uint32_t to = queries + uint32_t((warp * 16 + g + h * 8) * kPitch + column * 2);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(high) : "memory");
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + uint32_t(Tile::kPairs * kPitch)), "r"(low) : "memory");
      } else {
        q_high[s][i] = high, q_low[s][i] = low;
      }
    }
  }
  if constexpr (Tile::kQueriesInShared) __syncwarp();

  float out[Dim / 8][4] = {}, sums[4] = {};
  const auto ask = [&](int index) {  // for tile `index`, whose page was looked up; then looks up the next
    if (index >= tiles) return;
    if constexpr (kWiden)
      copies.load();
    else
      copies.copy(index % Tile::kStages);
    copies.look_up(first_key + (index + 1) * kKeys);
  };
  copies.look_up(first_key);
  ask(0);
  if constexpr (kWiden) {
    copies.store(memory, 0);
    ask(1);
  } else {
    copy_async_commit();
    ask(1);
    copy_async_commit();
  }
  for (int index = 0; index < tiles; ++index) {
    const int stage = index % Tile::kStages, key0 = first_key + index * kKeys;
    if constexpr (!kWiden) copy_async_wait<1>();
    __syncthreads();
    if constexpr (kWiden) {
      if (index + 1 < tiles) copies.store(memory, (index + 1) % Tile::kStages);
      ask(index + 2);
    } else {
      ask(index + 2);
      copy_async_commit();
    }
    if (key0 > warp_newest) continue;
    const uint32_t keys = shared_address(memory) + uint32_t(stage) * uint32_t(Tile::kStageBytes),
                   values = keys + uint32_t(kKeys * kPitch);

    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t high[4], low[4];
      if constexpr (Tile::kQueriesInShared) {
        const uint32_t from = queries + uint32_t((warp * 16 + lane % 16) * kPitch + s * 32 + lane / 16 * 16);
        load_matrices(high, from);
        load_matrices(low, from + uint32_t(Tile::kPairs * kPitch));
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) high[i] = q_high[s][i], low[i] = q_low[s][i];
      }
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrices(b, keys + uint32_t((j * 16 + lane / 16 * 8 + lane % 8) * kPitch + s * 32 + lane / 8 % 2 * 16));
        multiply_bf16(score[2 * j], high, b[0], b[1]);
        multiply_bf16(score[2 * j + 1], high, b[2], b[3]);
        multiply_bf16(score[2 * j], low, b[0], b[1]);
        multiply_bf16(score[2 * j + 1], low, b[2], b[3]);
      }
    }
    const float* const key_steps = TileCopy<T, Dim>::steps_at(memory, stage, 0);
    const float* const value_steps = TileCopy<T, Dim>::steps_at(memory, stage, 1);
    if constexpr (kWiden) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
        const float2 step = *reinterpret_cast<const float2*>(key_steps + j * 8 + 2 * t);
        score[j][0] *= step.x, score[j][1] *= step.y, score[j][2] *= step.x, score[j][3] *= step.y;
      }
    }
    if constexpr (Capped) {
      const float cap = a.soft_cap * kLog2E;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) score[j][e] = cap * tanhf(score[j][e] / cap);
      }
    }
    if (key0 + kKeys - 1 > all_newest || key0 < all_begin) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = key0 + j * 8 + 2 * t + e % 2;
          if (key > row[e / 2].position || key < row[e / 2].begin) score[j][e] = -INFINITY;
        }
      }
    }
    float shrink[2], most[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = row[h].most;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) largest = fmaxf(largest, fmaxf(score[j][2 * h], score[j][2 * h + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      most[h] = largest == -INFINITY ? 0.0f : largest;  // nothing seen yet: all weights are 0
      shrink[h] = exp2_fast(row[h].most - most[h]);
      row[h].most = largest;
      row[h].total *= shrink[h];
    }
#pragma unroll
    for (int n = 0; n < Dim / 8; ++n) {
      out[n][0] *= shrink[0], out[n][1] *= shrink[0], out[n][2] *= shrink[1], out[n][3] *= shrink[1];
    }
    sums[0] *= shrink[0], sums[2] *= shrink[1];
#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      uint32_t p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 2 * s + i / 2, h = i % 2;
        float x = exp2_fast(score[j][2 * h] - most[h]), y = exp2_fast(score[j][2 * h + 1] - most[h]);
        if constexpr (kWiden) {
          row[h].total += x + y;
          const float2 step = *reinterpret_cast<const float2*>(value_steps + j * 8 + 2 * t);
          x *= step.x, y *= step.y;
        }
        p[i] = pack_bf16(x, y);
      }
      // The weights' total is that of their rounded values: a column of ones.
      if constexpr (!kWiden) multiply_bf16(sums, p, 0x3f803f80u, 0x3f803f80u);
#pragma unroll
      for (int n = 0; n < Dim / 16; ++n) {
        uint32_t b[4];
        load_matrices_transposed(b, values + uint32_t((s * 16 + lane % 16) * kPitch + n * 32 + lane / 16 * 16));
        multiply_bf16(out[2 * n], p, b[0], b[1]);
        multiply_bf16(out[2 * n + 1], p, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float total = kWiden ? row[h].total : sums[2 * h];
    if constexpr (kWiden) {
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
    }
    if (row[h].position < 0) continue;
    float kept = 1;
    if (a.sinks != nullptr) {
      const int head = head0 + (warp * 16 + g + h * 8) % tile_heads;
      const float sink = __ldg(a.sinks + kv_head * per_kv + head) * kLog2E, most = fmaxf(row[h].most, sink);
      kept = exp2_fast(row[h].most - most);
      total = total * kept + exp2_fast(sink - most);
    }
    const float inverse = total != 0 ? kept / total : 0.0f;
#pragma unroll
    for (int n = 0; n < Dim / 8; ++n) {
      const int column = n * 8 + 2 * t;
      if (column < dim)
        *reinterpret_cast<float2*>(a.out + row[h].at + size_t(column)) = {out[n][2 * h] * inverse,
                                                                          out[n][2 * h + 1] * inverse};
    }
  }
}

template <class T, int Dim, bool Capped>
void run_tiles(const AttendArgs& a, const BatchView& batch, cudaStream_t stream) {
  using Tile = AttendTile<Dim>;
  const int per_kv = a.heads / a.kv.kv_heads, heads = heads_of_tile(per_kv), sets = (per_kv + heads - 1) / heads;
  const int rows = Tile::kPairs / heads, tiles = (batch.rows - batch.lone_row_count) / rows + batch.segment_count;
  allow_shared(attend_tiles_kernel<T, Dim, Capped>, Tile::kShared);
  launch("attend", attend_tiles_kernel<T, Dim, Capped>, {unsigned(a.kv.kv_heads * sets), unsigned(tiles)},
         {Tile::kThreads}, Tile::kShared, stream, a, batch, heads);
}

/// f(Dim, Capped). Few models cap, and their heads are wide.
template <class F>
void with_tiles(int head_dim, bool capped, const F& f) {
  using std::integral_constant;
  if (capped && head_dim <= 128) return f(integral_constant<int, 128>(), std::true_type());
  if (capped) return f(integral_constant<int, 256>(), std::true_type());
  if (head_dim <= 32) return f(integral_constant<int, 32>(), std::false_type());
  if (head_dim <= 64) return f(integral_constant<int, 64>(), std::false_type());
  if (head_dim <= 96) return f(integral_constant<int, 96>(), std::false_type());
  if (head_dim <= 128) return f(integral_constant<int, 128>(), std::false_type());
  f(integral_constant<int, 256>(), std::false_type());
}

}  // namespace bumblebee::cuda
