// A lane has eight elements of a head, so that 8, 16 or 32 lanes have one token; a warp takes up to two query heads
// that share keys and values. A past is always summed in strands of chunks of 8 tokens (strand s: chunks s, s +
// kStrands and so on), a warp to a strand, kWide strands joined within a block, and these in order again: whether one
// block does all of it or several. So a row's bits are the same in any batch.
#pragma once

#include <cmath>
#include <type_traits>

#include "backend/cuda/kernels/attend_tiles.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/rotate.cuh"

namespace bumblebee::cuda {

constexpr int kWide = 8;     // warps of a block, each with a strand
constexpr int kSplits = 16;  // blocks of a row
/// A quarter of a multiprocessor has 16,384, of which three warps of a product take 9,216: a block finds room beside
/// the product that made q, k and v, and is there when it ends.
constexpr int kRegisters = 104;
/// How a warp shares heads out.
template <int Lanes, int Heads, int Octets = 1, bool Whole = true, bool Capped = false, bool Latent = false>
struct FewShape {
  /// Lanes that have one token, and heads that share its keys.
  static constexpr int kLanes = Lanes, kHeads = Heads;
  /// Octets of a head that are a lane's: its own, and every kLanes-th after it.
  static constexpr int kOctets = Octets;
  static constexpr bool kWhole = Whole;    // heads, and their values, are whole octets
  static constexpr bool kCapped = Capped;  // scores may be
  static constexpr bool kLatent = Latent;  // values lie within keys
};
/// How many tokens a lane holds while it waits for more, and the registers of a kernel: what most models cache, bf16
/// of heads up to 128, gains by four tokens (3 to 4% of a token's time), and has the same room with 112 registers: two
/// warps take the 7,168 that three of a product leave.
template <class T, class S>
constexpr bool kHoldsFour = std::is_same_v<T, __nv_bfloat16> && S::kLanes == 16 && S::kHeads == 2 && !S::kCapped;
template <class T, class S>
constexpr int kHeld = kHoldsFour<T, S>                   ? 4
                      : sizeof(T) == 4 || S::kOctets > 2 ? 1
                                                         : 2;
template <class T, class S>
constexpr int kRegistersOf = S::kOctets > 2     ? 248
                             : S::kOctets == 2  ? 168
                             : S::kCapped       ? 128
                             : kHoldsFour<T, S> ? 112
                                                : kRegisters;
constexpr int kStrands = kWide * kSplits;
constexpr int kSplitRows = 32;  // with more rows than that there is work enough without splitting
constexpr int kChunk = 8;
constexpr int kPart = 8;  // elements of a lane

/// Eight elements of one token's key or value, as they lie in memory. Other blocks wrote some of them while this one
/// was already running, so L1 may not answer.
template <class T>
struct HeadPart {
  static constexpr int kWords = kPart * int(sizeof(T)) / 4;
  uint32_t word[kWords] = {};

  /// Whole: heads are whole octets, and so begin where wide loads may.
  template <bool Whole>
  __device__ void load(const T* at, int left) {
    if constexpr (!Whole) return load_some(reinterpret_cast<const uint8_t*>(at), left);
    if constexpr (kWords == 2) {
      const uint2 v = __ldcg(reinterpret_cast<const uint2*>(at));
      word[0] = v.x, word[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        const uint4 v = __ldcg(reinterpret_cast<const uint4*>(at) + i);
        word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
      }
    }
  }
  __device__ void values(float (&v)[kPart]) const {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      if constexpr (sizeof(T) == 4)
        v[i] = __uint_as_float(word[i]);
      else if constexpr (sizeof(T) == 1)
        v[i] = float(int8_t(word[i / 4] >> (i % 4 * 8)));
      else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        v[i] = __uint_as_float(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
      else
        v[i] = __half2float(__ushort_as_half(uint16_t(word[i / 2] >> (i % 2 * 16))));
    }
  }

 private:
  __device__ void load_some(const uint8_t* at, int left) {
#pragma unroll
    for (int i = 0; i < kPart * int(sizeof(T)); ++i)
      if (i < left * int(sizeof(T))) word[i / 4] |= uint32_t(__ldcg(at + i)) << (i % 4 * 8);
  }
};

/// What a warp knows of its row before anything is computed.
struct Past {
  int begin, last;  // tokens that are seen
  const uint8_t* const* pages;
};
__device__ inline Past past_of(const AttendArgs& a, const BatchView& batch, int row) {
  const int last = batch.cached[row];
  return {a.window > 0 ? max(0, last - a.window + 1) : 0, last, batch.pages + batch.first_page[row]};
}
/// How many blocks' worth of strands there is something in.
__device__ inline int splits_of(const Past& past) {
  const int chunks = max(past.last, 0) / kChunk + 1;
  return min(kSplits, (chunks + kWide - 1) / kWide);
}

/// One head's keys and values of one token.
template <class T>
struct TokenPlace {
  const T *key, *value;
  const float *key_step, *value_step;  // of int8
};
template <class T>
__device__ inline TokenPlace<T> place_of(const AttendArgs& a, const Past& past, int kv_head, int t) {
  const uint8_t *page = past.pages[t / a.kv.page_size], *keys = head_at(a.kv, page, 0, kv_head),
                *values = head_at(a.kv, page, 1, kv_head);
  const int token = t % a.kv.page_size, at = token * a.kv.head_dim;
  return {reinterpret_cast<const T*>(keys) + at, reinterpret_cast<const T*>(values) + at,
          reinterpret_cast<const float*>(keys + a.kv.scales_at) + token,
          reinterpret_cast<const float*>(values + a.kv.scales_at) + token};
}

/// Brings the strand's first chunk to L2; it may be done before the rows of this step are in the pages.
template <class T, class S>
__device__ void prefetch(const AttendArgs& a, const Past& past, int kv_head, int strand) {
  const int lane = int(threadIdx.x) % kWarp, first = lane % S::kLanes * kPart;
#pragma unroll 1
  for (int t = strand * kChunk + lane / S::kLanes; t < (strand + 1) * kChunk; t += kWarp / S::kLanes) {
    if (t < past.begin || t > past.last) continue;
    const TokenPlace<T> at = place_of<T>(a, past, kv_head, t);
#pragma unroll
    for (int o = 0; o < S::kOctets; ++o) {
      const int element = first + o * S::kLanes * kPart;
      if (element >= a.kv.head_dim) continue;
      prefetch_l2(at.key + element);
      if (!S::kLatent) prefetch_l2(at.value + element);
    }
  }
}

/// A softmax that is not finished, of one head: the largest score, Σ exp(score - largest), and Σ of that times v, of
/// which each lane of a token has its elements.
template <int Octets>
struct Partial {
  float largest = -INFINITY, total = 0, out[Octets][kPart] = {};
};

/// One strand of heads that share keys and values.
template <class T, class S>
__device__ void strand_of(const AttendArgs& a, const Past& past, int kv_head, int strand,
                          const float (&q)[S::kHeads][S::kOctets][kPart], Partial<S::kOctets> (&mine)[S::kHeads]) {
  constexpr int kGroups = kWarp / S::kLanes, kAhead = kHeld<T, S>;  // tokens side by side, and held at a time
  const int lane = int(threadIdx.x) % kWarp, first = lane % S::kLanes * kPart;
  const auto element = [&](int o) { return first + o * S::kLanes * kPart; };
  for (int c = strand; c * kChunk <= past.last; c += kStrands) {
    if ((c + 1) * kChunk <= past.begin) continue;
#pragma unroll 1
    for (int t0 = c * kChunk + lane / S::kLanes; t0 < (c + 1) * kChunk; t0 += kAhead * kGroups) {
      HeadPart<T> k[kAhead][S::kOctets], v[S::kLatent ? 1 : kAhead][S::kOctets];
      float key_step[kAhead], value_step[kAhead];  // latent: of values, and of the rest
      bool seen[kAhead], any = false;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int t = t0 + i * kGroups;
        seen[i] = t >= past.begin && t <= past.last;
        any = any || seen[i];
        key_step[i] = value_step[i] = 1;
        if (!seen[i]) continue;
        const TokenPlace<T> at = place_of<T>(a, past, kv_head, t);
#pragma unroll
        for (int o = 0; o < S::kOctets; ++o) {
          const int left = a.kv.head_dim - element(o);
          if (left <= 0) continue;
          k[i][o].template load<S::kWhole>(at.key + element(o), left);
          if constexpr (!S::kLatent) v[i][o].template load<S::kWhole>(at.value + element(o), left);
        }
        if constexpr (sizeof(T) == 1) {
          key_step[i] = __ldcg(at.key_step);
          value_step[i] = __ldcg(S::kLatent ? at.key_step + a.kv.page_size : at.value_step);
        }
      }
      // Octet o of token i, as scores take it or as sums do.
      const auto key = [&](int i, int o, float(&x)[kPart]) {
        k[i][o].values(x);
        if constexpr (S::kLatent && sizeof(T) == 1) {
#pragma unroll
          for (int e = 0; e < kPart; ++e) x[e] *= element(o) + e < a.kv.value_dim ? key_step[i] : value_step[i];
        }
      };
      const auto value = [&](int i, int o, float(&x)[kPart]) {
        if constexpr (S::kLatent)
          key(i, o, x);
        else
          v[i][o].values(x);
      };
      constexpr bool kStepped = !S::kLatent;  // scores and weights are, elements are not
      float score[S::kHeads][kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
#pragma unroll
        for (int h = 0; h < S::kHeads; ++h) score[h][i] = 0;
#pragma unroll
        for (int o = 0; o < S::kOctets; ++o) {
          float x[kPart];
          key(i, o, x);
#pragma unroll
          for (int h = 0; h < S::kHeads; ++h) {
#pragma unroll
            for (int e = 0; e < kPart; ++e) score[h][i] = fmaf(q[h][o][e], x[e], score[h][i]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < S::kHeads; ++h) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
#pragma unroll
          for (int offset = S::kLanes / 2; offset > 0; offset /= 2)
            score[h][i] += __shfl_xor_sync(0xffffffffu, score[h][i], offset);
          score[h][i] *= kStepped ? a.scale * key_step[i] : a.scale;
          if constexpr (S::kCapped)
            if (a.soft_cap > 0) score[h][i] = a.soft_cap * tanhf(score[h][i] / a.soft_cap);
        }
      }
      if (!any) continue;  // all lanes of a token; no shuffle is among them
#pragma unroll
      for (int h = 0; h < S::kHeads; ++h) {
        float most = mine[h].largest;
#pragma unroll
        for (int i = 0; i < kAhead; ++i)
          if (seen[i]) most = fmaxf(most, score[h][i]);
        const float shrink = expf(mine[h].largest - most);
        mine[h].largest = most;
        mine[h].total *= shrink;
#pragma unroll
        for (int o = 0; o < S::kOctets; ++o)
#pragma unroll
          for (int e = 0; e < kPart; ++e) mine[h].out[o][e] *= shrink;
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const float weight = seen[i] ? expf(score[h][i] - most) : 0.0f;
          mine[h].total += weight;
          score[h][i] = kStepped ? weight * value_step[i] : weight;
        }
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
#pragma unroll
        for (int o = 0; o < S::kOctets; ++o) {
          float x[kPart];
          value(i, o, x);
#pragma unroll
          for (int h = 0; h < S::kHeads; ++h)
#pragma unroll
            for (int e = 0; e < kPart; ++e) mine[h].out[o][e] = fmaf(score[h][i], x[e], mine[h].out[o][e]);
        }
      }
    }
  }
  __syncwarp();
  // The tokens side by side as a tree, each lane with the other lanes that have its elements.
#pragma unroll
  for (int offset = S::kLanes; offset < kWarp; offset *= 2) {
#pragma unroll
    for (int h = 0; h < S::kHeads; ++h) {
      const float most = fmaxf(mine[h].largest, __shfl_xor_sync(0xffffffffu, mine[h].largest, offset));
      const float weight = mine[h].total != 0 ? expf(mine[h].largest - most) : 0.0f;
      mine[h].largest = most;
      mine[h].total *= weight;
      mine[h].total += __shfl_xor_sync(0xffffffffu, mine[h].total, offset);
#pragma unroll
      for (int o = 0; o < S::kOctets; ++o) {
#pragma unroll
        for (int e = 0; e < kPart; ++e) {
          mine[h].out[o][e] *= weight;
          mine[h].out[o][e] += __shfl_xor_sync(0xffffffffu, mine[h].out[o][e], offset);
        }
      }
    }
  }
}

/// One head as the warps join it that share its elements: lane l of warp w has elements 32·w + l, 32·(w + warps) + l,
/// ...
template <int Each>
struct Joined {
  float largest = -INFINITY, total = 0, out[Each] = {};

  /// One more; NaN goes on, and what saw nothing adds nothing.
  __device__ __forceinline__ void add(const Joined& other) {
    if (other.total == 0) return;
    if (total == 0) {  // the same numbers as below
      *this = other;
      return;
    }
    const float most = fmaxf(largest, other.largest), mine = expf(largest - most), theirs = expf(other.largest - most);
    total = total * mine + other.total * theirs;
#pragma unroll
    for (int j = 0; j < Each; ++j) out[j] = out[j] * mine + other.out[j] * theirs;
    largest = most;
  }
};

/// Grid: rows (those of batch.lone_rows, where `lone`), kv heads, splits (1: a block does them all). Partials [rows,
/// heads, splits, 2 + values]; the block that finishes last joins them. Shared memory: [kWide][S::kHeads][2 + values].
template <class T, class S>
__global__ void __maxnreg__((kRegistersOf<T, S>))
    attend_kernel(AttendArgs a, BatchView batch, AttendWorkspace workspace, bool lone) {
  extern __shared__ float shared[];
  __shared__ bool is_last;
  constexpr int kSharers = kWide / S::kHeads;  // of a head's elements
  constexpr int kEach = (S::kOctets * S::kLanes * kPart / kWarp + kSharers - 1) / kSharers;
  using All = Joined<kEach>;
  const int per_kv = a.heads / a.kv.kv_heads, sets = (per_kv + S::kHeads - 1) / S::kHeads;  // of heads that warps share
  const int row = lone ? batch.lone_rows[blockIdx.x] : int(blockIdx.x), kv_head = int(blockIdx.y) / sets,
            h0 = int(blockIdx.y) % sets * S::kHeads, warp = int(threadIdx.x) / kWarp;
  const int lane = int(threadIdx.x) % kWarp, first = lane % S::kLanes * kPart, dim = a.kv.head_dim;
  const int out_dim = S::kLatent ? a.kv.value_dim : dim, width = 2 + out_dim;
  const auto element = [&](int o) { return first + o * S::kLanes * kPart; };
  const Past past = past_of(a, batch, row);
  const int splits = splits_of(past);
  const bool alone = gridDim.z == 1 || splits == 1;
  const auto index_of = [&](int h) { return size_t(row) * size_t(a.heads) + size_t(kv_head * per_kv + h); };
  if (int(blockIdx.z) >= splits) return;  // others wait for what came earlier
  prefetch<T, S>(a, past, kv_head, int(blockIdx.z) * kWide + warp);
  // A chain of products that follows takes a multiprocessor as soon as the one before has left it. Where a past is
  // long, blocks of attention are many, and it would be in their way.
  if (splits < kSplits) launch_dependents();
  wait_for_inputs();
  launch_dependents();  // not before: the product that made q, k and v has left by now, and the next one finds room
  // Which head a warp joins, and which of its elements.
  const int head = warp / kSharers, place = warp % kSharers * kWarp + lane;
  const bool joins = h0 + head < per_kv;
  const auto elements = [&](const auto& f) {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (place + j * kSharers * kWarp < out_dim) f(j, place + j * kSharers * kWarp);
  };
  const auto finish = [&](All& all) {
    const float score = a.sinks == nullptr ? -INFINITY : __ldg(a.sinks + kv_head * per_kv + h0 + head);
    if (score != -INFINITY) {  // of a padded row all is -inf
      All sink;
      sink.largest = score, sink.total = 1;
      all.add(sink);
    }
    elements([&](int j, int i) {
      __stcg(a.out + index_of(h0 + head) * size_t(out_dim) + size_t(i), all.total != 0 ? all.out[j] / all.total : 0.0f);
    });
  };
  float q[S::kHeads][S::kOctets][kPart];
#pragma unroll
  for (int h = 0; h < S::kHeads; ++h) {
#pragma unroll
    for (int o = 0; o < S::kOctets; ++o) {
      HeadPart<float> part;
      if (h0 + h < per_kv && element(o) < dim)
        part.template load<S::kWhole>(a.q + index_of(h0 + h) * size_t(dim) + size_t(element(o)), dim - element(o));
      part.values(q[h][o]);
    }
  }
  All all;
  for (int split = int(blockIdx.z); split < splits; split += int(gridDim.z)) {
    Partial<S::kOctets> mine[S::kHeads];
    strand_of<T, S>(a, past, kv_head, split * kWide + warp, q, mine);
#pragma unroll
    for (int h = 0; h < S::kHeads; ++h) {
      float* to = shared + (warp * S::kHeads + h) * width;
      if (lane == 0) to[0] = mine[h].largest, to[1] = mine[h].total;
#pragma unroll
      for (int o = 0; o < S::kOctets; ++o) {
        if (lane >= S::kLanes || element(o) >= out_dim) continue;
#pragma unroll
        for (int e = 0; e < kPart; ++e)
          if (S::kWhole || element(o) + e < out_dim) to[2 + element(o) + e] = mine[h].out[o][e];
      }
    }
    __syncthreads();
    if (joins) {
      // All strands at once: a chain of them, each with two exponentials, took longer than the strands themselves.
      float largest[kWide], total[kWide];
      All sum;
#pragma unroll
      for (int w = 0; w < kWide; ++w) {
        const float* from = shared + (w * S::kHeads + head) * width;
        largest[w] = from[0], total[w] = from[1];
      }
#pragma unroll
      for (int w = 0; w < kWide; ++w) sum.largest = total[w] != 0 ? fmaxf(sum.largest, largest[w]) : sum.largest;
#pragma unroll
      for (int w = 0; w < kWide; ++w) {
        const float weight = total[w] != 0 ? expf(largest[w] - sum.largest) : 0.0f;
        const float* from = shared + (w * S::kHeads + head) * width + 2;
        sum.total = fmaf(total[w], weight, sum.total);
        elements([&](int j, int i) { sum.out[j] = fmaf(from[i], weight, sum.out[j]); });
      }
      if (alone) {
        all.add(sum);
      } else {
        float* to = workspace.partials + (index_of(h0 + head) * kSplits + size_t(split)) * size_t(width);
        if (place == 0) __stcg(to, sum.largest), __stcg(to + 1, sum.total);
        elements([&](int j, int i) { __stcg(to + 2 + i, sum.out[j]); });
      }
    }
    __syncthreads();
  }
  if (alone) {
    if (joins) finish(all);
    return;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrived = workspace.arrived + row * int(gridDim.y) + int(blockIdx.y);
    is_last = atomicAdd(arrived, 1u) + 1 == uint32_t(splits);
    if (is_last) *arrived = 0;
    __threadfence();
  }
  __syncthreads();
  if (!is_last || !joins) return;
  // Several are asked for before the first is added.
  constexpr int kAhead = 4;
  const float* partials = workspace.partials + index_of(h0 + head) * kSplits * size_t(width);
#pragma unroll 1
  for (int first_split = 0; first_split < splits; first_split += kAhead) {
    All some[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      if (first_split + n >= splits) continue;
      const float* from = partials + size_t(first_split + n) * size_t(width);
      some[n].largest = __ldcg(from), some[n].total = __ldcg(from + 1);
      elements([&](int j, int i) { some[n].out[j] = __ldcg(from + 2 + i); });
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n)
      if (first_split + n < splits) all.add(some[n]);
  }
  finish(all);
}

/// `lone`: rows of batch.lone_rows alone.
template <class T, class S>
void run_few(const AttendArgs& a, const BatchView& batch, const AttendWorkspace& workspace, bool lone,
             cudaStream_t stream) {
  const unsigned splits = workspace.partials != nullptr ? kSplits : 1;
  const int per_kv = a.heads / a.kv.kv_heads, sets = (per_kv + S::kHeads - 1) / S::kHeads;
  launch_overlapping("attend", attend_kernel<T, S>,
                     {unsigned(lone ? batch.lone_row_count : batch.rows), unsigned(a.kv.kv_heads * sets), splits},
                     {kWide * kWarp}, size_t(kWide * S::kHeads * (2 + a.kv.values())) * sizeof(float), stream, a, batch,
                     workspace, lone);
}

}  // namespace bumblebee::cuda
