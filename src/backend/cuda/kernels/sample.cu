// A block for each row. Comparisons and exponentials are spread over its threads; sums of f64 are formed by one, in the
// order that the definition gives, so that a seed gives the same token as on the host. Only tokens that are left after
// top-k take part in what is slow.
#include "backend/cuda/kernels/sample.h"

#include <cmath>

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/exact_math.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/sample.h"

namespace bumblebee::cuda {
namespace {

constexpr int kSlices = 64, kSliceThreads = 256;
constexpr int kThreads = 1024, kWarps = kThreads / kWarp, kChunk = 2 * kThreads;  // the sort: a thread for each pair

struct Workspace {
  float* scores;    // [vocab]
  double* running;  // [vocab] of unmasked tokens
  int32_t* tokens;  // [vocab] whose
};

/// The largest logit as it is: what most rows ask for, and what many blocks find sooner than one.
__device__ inline bool is_plain_greedy(const SampleView& row) {
  return row.mode == 1 && row.changes == 0 && row.forced < 0 && row.temperature == 1;
}
/// In the place of a key: a logit is NaN or +infinity.
constexpr uint64_t kBadLogit = ~uint64_t(0);

struct Shared {
  uint64_t keys[kChunk];
  double weights[kChunk];
  uint64_t best[kWarps];
  int counts[256];
  int warp_counts[kWarps];
  uint64_t key;
  double value;
  int number, number2;
};

/// Larger scores have larger keys, and among equal ones lower ids.
__device__ inline uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 and +0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline uint64_t key_of(float x, int id) { return uint64_t(ordered(x)) << 32 | (0xffffffffu - uint32_t(id)); }
__device__ inline int id_of(uint64_t key) { return int(0xffffffffu - uint32_t(key)); }
__device__ inline float score_of(uint64_t key) {
  const uint32_t bits = uint32_t(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/// f(i, scores[i]) for all ids of this thread; many are asked for before the first is looked at.
template <class F>
__device__ inline void for_each(const float* scores, int vocab, F f) {
  constexpr int kAhead = 8;
  int i = int(threadIdx.x);
  for (; i + (kAhead - 1) * kThreads < vocab; i += kAhead * kThreads) {
    float values[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) values[j] = scores[i + j * kThreads];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) f(i + j * kThreads, values[j]);
  }
  for (; i < vocab; i += kThreads) f(i, scores[i]);
}

/// The largest key of scores above -infinity; 0: there is none.
__device__ uint64_t best_key(const float* scores, int vocab, Shared& s) {
  uint64_t best = 0;
  for_each(scores, vocab, [&](int i, float score) {
    const uint64_t key = score == -INFINITY ? 0 : key_of(score, i);
    best = key > best ? key : best;
  });
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) s.best[threadIdx.x / kWarp] = best;
  __syncthreads();
  for (const uint64_t other : s.best) best = other > best ? other : best;
  return best;
}

/// How many keys below `below` there are; `masked`: also of scores of -infinity.
__device__ int count_below(const float* scores, int vocab, uint64_t below, bool masked, Shared& s) {
  __syncthreads();
  if (threadIdx.x == 0) s.number = 0;
  __syncthreads();
  int count = 0;
  for_each(scores, vocab,
           [&](int i, float score) { count += (masked || score != -INFINITY) && key_of(score, i) < below ? 1 : 0; });
  count = __reduce_add_sync(0xffffffffu, count);
  if (threadIdx.x % kWarp == 0) atomicAdd(&s.number, count);
  __syncthreads();
  return s.number;
}

/// The `wanted`-th largest of the keys below `below`; there are so many.
__device__ uint64_t select_key(const float* scores, int vocab, uint64_t below, int wanted, bool masked, Shared& s) {
  uint64_t prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = int(threadIdx.x); i < 256; i += kThreads) s.counts[i] = 0;
    __syncthreads();
    for_each(scores, vocab, [&](int i, float score) {
      if (!masked && score == -INFINITY) return;
      const uint64_t key = key_of(score, i);
      if (key >= below) return;
      if (shift < 56 && key >> (shift + 8) != prefix >> (shift + 8)) return;
      atomicAdd(&s.counts[key >> shift & 255], 1);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255, left = wanted;
      while (s.counts[digit] < left) left -= s.counts[digit--];
      s.number = left;
      s.number2 = s.counts[digit];
      s.key = prefix | uint64_t(digit) << shift;
    }
    __syncthreads();
    prefix = s.key;
    wanted = s.number;
    if (wanted == s.number2 && shift > 0) {  // the whole of this digit: its smallest key is the one
      __syncthreads();
      uint64_t least = ~uint64_t(0);
      for_each(scores, vocab, [&](int i, float score) {
        if (!masked && score == -INFINITY) return;
        const uint64_t key = key_of(score, i);
        if (key < below && key >= prefix && key < least) least = key;
      });
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const uint64_t other = __shfl_xor_sync(0xffffffffu, least, offset);
        least = other < least ? other : least;
      }
      if (threadIdx.x % kWarp == 0) s.best[threadIdx.x / kWarp] = least;
      __syncthreads();
      for (const uint64_t other : s.best) least = other < least ? other : least;
      return least;
    }
  }
  return prefix;
}

/// Keys in [from, below), at most kChunk, into s.keys, the largest first. Returns how many.
__device__ int gather_sorted(const float* scores, int vocab, uint64_t from, uint64_t below, bool masked, Shared& s) {
  __syncthreads();
  if (threadIdx.x == 0) s.number = 0;
  for (int i = int(threadIdx.x); i < kChunk; i += kThreads) s.keys[i] = 0;
  __syncthreads();
  for_each(scores, vocab, [&](int i, float score) {
    if (!masked && score == -INFINITY) return;
    const uint64_t key = key_of(score, i);
    if (key >= from && key < below) s.keys[atomicAdd(&s.number, 1)] = key;
  });
  __syncthreads();
  for (int size = 2; size <= kChunk; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      const int t = int(threadIdx.x), low = t / step * step * 2 + t % step, high = low + step;
      const uint64_t a = s.keys[low], b = s.keys[high];
      if ((low & size) == 0 ? a < b : a > b) s.keys[low] = b, s.keys[high] = a;
      __syncthreads();
    }
  }
  return s.number;
}

/// Σ exp(score - max) of unmasked tokens in order of id, in every thread. With `work` also the running sums and whose
/// they are; s.number2 is then how many.
__device__ double ordered_sum(const float* scores, int vocab, double max, const ExpTable& table, Workspace* work,
                              Shared& s) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  double total = 0;  // of thread 0
  int before = 0;
  for (int first = 0; first < vocab; first += kThreads) {
    const int i = first + int(threadIdx.x);
    const bool unmasked = i < vocab && scores[i] != -INFINITY;
    const unsigned there = __ballot_sync(0xffffffffu, unmasked);
    if (lane == 0) s.warp_counts[warp] = __popc(there);
    __syncthreads();
    int at = __popc(there & ((1u << lane) - 1)), count = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += s.warp_counts[w];
      count += s.warp_counts[w];
    }
    if (unmasked) s.weights[at] = exact_exp(double(scores[i]) - max, table);
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int j = 0; j < count; ++j) {
        total += s.weights[j];
        s.weights[j] = total;
      }
    }
    __syncthreads();
    if (unmasked && work != nullptr) {
      work->running[before + at] = s.weights[at];
      work->tokens[before + at] = i;
    }
    before += count;
  }
  __syncthreads();
  if (threadIdx.x == 0) s.value = total, s.number2 = before;
  __syncthreads();
  return s.value;
}

__device__ void mask_below(float* scores, int vocab, uint64_t least) {
  for_each(scores, vocab, [&](int i, float score) {
    if (key_of(score, i) < least) scores[i] = -INFINITY;
  });
  __syncthreads();
}

__device__ void keep_top_k(float* scores, int vocab, int top_k, Shared& s) {
  if (top_k <= 0 || top_k >= count_below(scores, vocab, ~uint64_t(0), false, s)) return;
  const uint64_t kth = select_key(scores, vocab, ~uint64_t(0), top_k, false, s);
  __syncthreads();
  mask_below(scores, vocab, kth >> 32 << 32);  // ties with it stay
}

__device__ void keep_top_p(float* scores, int vocab, double top_p, double max, const ExpTable& table, Shared& s) {
  if (top_p >= 1) return;
  const double wanted = top_p * ordered_sum(scores, vocab, max, table, nullptr, s);
  uint64_t below = ~uint64_t(0);
  int left = count_below(scores, vocab, below, false, s);
  double mass = 0;
  while (left > 0) {
    const int some = left < kChunk ? left : kChunk;
    const uint64_t from = select_key(scores, vocab, below, some, false, s);
    gather_sorted(scores, vocab, from, below, false, s);
    for (int i = int(threadIdx.x); i < some; i += kThreads)
      s.weights[i] = exact_exp(double(score_of(s.keys[i])) - max, table);
    __syncthreads();
    if (threadIdx.x == 0) {
      int kept = 0;
      while (kept < some && mass < wanted) mass += s.weights[kept++];
      // The first of all stays in any case.
      s.number = kept < some ? 1 : 0;
      s.key = kept > 0 ? s.keys[kept - 1] : below == ~uint64_t(0) ? s.keys[0] : below;
      if (kept == some && mass >= wanted) s.number = 1;
      s.value = mass;
    }
    __syncthreads();
    mass = s.value;
    const bool done = s.number != 0;
    const uint64_t last = s.key;
    __syncthreads();
    if (done) return mask_below(scores, vocab, last);
    below = from;
    left -= some;
  }
}

/// Philox 4x32-10, as base/rng.h.
__device__ double uniform01(uint64_t key, uint64_t counter) {
  uint32_t c[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c[0], p1 = uint64_t(0xCD9E8D57u) * c[2];
    const uint32_t next[4] = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1,
                              uint32_t(p0)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return double((uint64_t(c[0]) << 32 | c[1]) >> 11) * 0x1p-53;
}

__device__ int draw(const SampleView& row, const float* scores, int vocab, double max, const ExpTable& table,
                    Workspace& work, Shared& s) {
  const double total = ordered_sum(scores, vocab, max, table, &work, s);
  const int count = s.number2;
  const double u = uniform01(row.seed, row.draw) * total;
  int low = 0, high = count;  // the first running sum above u
  while (low < high) {
    const int middle = (low + high) / 2;
    if (work.running[middle] > u) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return work.tokens[low < count ? low : count - 1];
}

/// The scores after changes and division; returns what `process` does, and the best key.
__device__ int process(const float* logits, const SampleView& row, const ChangeView* changes, int vocab, float* scores,
                       uint64_t& best, Shared& s) {
  int bad = 0;
  for_each(logits, vocab, [&](int i, float logit) {
    bad |= logit < INFINITY ? 0 : 1;
    scores[i] = logit;
  });
  if (__syncthreads_or(bad) != 0) return kNotFinite;
  for (int i = int(threadIdx.x); i < row.changes; i += kThreads) {
    const ChangeView& c = changes[row.first_change + i];
    if (unsigned(c.token) >= unsigned(vocab)) continue;  // a replayed step is not checked on the host
    float x = __fadd_rn(scores[c.token], c.add);
    x = x < 0 ? __fmul_rn(x, c.penalty) : __fdiv_rn(x, c.penalty);
    x = __fsub_rn(x, c.subtract);
    scores[c.token] = x != x ? -INFINITY : x;
  }
  __syncthreads();
  if (row.forced >= 0) {
    for (int i = int(threadIdx.x); i < vocab; i += kThreads) scores[i] = i == row.forced ? 0.0f : -INFINITY;
    __syncthreads();
  }
  if (best_key(scores, vocab, s) == 0) return kAllMasked;
  for_each(scores, vocab, [&](int i, float score) { scores[i] = __fdiv_rn(score, row.temperature); });
  __syncthreads();
  best = best_key(scores, vocab, s);
  return best == 0 ? kAllMasked : 0;
}

__device__ int choose(const float* logits, const SampleView& row, const ChangeView* changes, int vocab,
                      const ExpTable& table, Workspace& work, Shared& s) {
  uint64_t best = 0;
  if (const int why = process(logits, row, changes, vocab, work.scores, best, s); why < 0) return why;
  const double max = double(score_of(best));
  if (row.mode != 2 || isinf(max)) return id_of(best);
  keep_top_k(work.scores, vocab, row.top_k, s);
  keep_top_p(work.scores, vocab, row.top_p, max, table, s);
  if (row.min_p > 0) {
    for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
      const float x = work.scores[i];
      if (x != -INFINITY && exact_exp(double(x) - max, table) < row.min_p) work.scores[i] = -INFINITY;
    }
    __syncthreads();
  }
  return draw(row, work.scores, vocab, max, table, work, s);
}

/// Best keys of slices of plain greedy rows: [rows, kSlices].
__global__ void __launch_bounds__(kSliceThreads) slice_kernel(SampleArgs a, BatchView batch, int first) {
  __shared__ uint64_t scratch[kSliceThreads / kWarp];
  launch_dependents();
  const int r = first + int(blockIdx.x), slice = int(blockIdx.y);
  const bool wanted = is_plain_greedy(batch.sample[r]);
  wait_for_inputs();
  if (!wanted) return;
  const float* logits = a.logits + size_t(r) * size_t(a.vocab);
  uint64_t best = 0;
#pragma unroll 4
  for (int i = slice * kSliceThreads + int(threadIdx.x); i < a.vocab; i += kSlices * kSliceThreads) {
    const float logit = __ldcg(logits + i);
    const uint64_t key = !(logit < INFINITY) ? kBadLogit : logit == -INFINITY ? 0 : key_of(logit, i);
    best = key > best ? key : best;
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, best, offset);
    best = other > best ? other : best;
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const uint64_t other : scratch) best = other > best ? other : best;
  __stcg(reinterpret_cast<unsigned long long*>(a.workspace) + size_t(blockIdx.x) * kSlices + size_t(slice), best);
}

/// What choose() would say, from the keys of the slices.
__device__ int choose_greedy(const uint64_t* keys, Shared& s) {
  if (threadIdx.x < kWarp) {
    uint64_t best = 0;
    for (int i = int(threadIdx.x); i < kSlices; i += kWarp) {
      const uint64_t key = __ldcg(reinterpret_cast<const unsigned long long*>(keys) + i);
      best = key > best ? key : best;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(0xffffffffu, best, offset);
      best = other > best ? other : best;
    }
    if (threadIdx.x == 0) s.key = best;
  }
  __syncthreads();
  const uint64_t best = s.key;
  return best == kBadLogit ? kNotFinite : best == 0 ? kAllMasked : id_of(best);
}

__device__ void write_logprobs(const SampleArgs& a, int r, const float* logits, int token, int top,
                               const ExpTable& table, Shared& s) {
  const uint64_t best = best_key(logits, a.vocab, s);
  const double max = best == 0 ? 0 : double(score_of(best));
  const double log_sum = max + exact_log(ordered_sum(logits, a.vocab, max, table, nullptr, s));
  double* to = a.logprobs + size_t(r) * size_t(1 + a.tops);
  if (threadIdx.x == 0) to[0] = double(logits[token]) - log_sum;
  top = min(min(top, a.vocab), kMaxTops);
  if (top <= 0) return;
  const uint64_t from = select_key(logits, a.vocab, ~uint64_t(0), top, true, s);
  gather_sorted(logits, a.vocab, from, ~uint64_t(0), true, s);
  for (int i = int(threadIdx.x); i < top; i += kThreads) {
    a.top_ids[size_t(r) * size_t(a.tops) + size_t(i)] = id_of(s.keys[i]);
    to[1 + i] = double(logits[id_of(s.keys[i])]) - log_sum;
  }
}

__global__ void __launch_bounds__(kThreads) sample_kernel(SampleArgs a, BatchView batch, int first, bool asked) {
  __shared__ Shared s;
  launch_dependents();
  wait_for_inputs();
  const int r = first + int(blockIdx.x);
  const size_t vocab = size_t(a.vocab);
  const uint64_t* const keys = static_cast<const uint64_t*>(a.workspace) + size_t(blockIdx.x) * kSlices;
  uint8_t* const memory = static_cast<uint8_t*>(a.workspace) + kSampleRows * kSlices * sizeof(uint64_t);
  double* const running = reinterpret_cast<double*>(memory) + blockIdx.x * vocab;
  float* const floats = reinterpret_cast<float*>(memory + size_t(gridDim.x) * vocab * sizeof(double));
  int32_t* const ints = reinterpret_cast<int32_t*>(floats + size_t(gridDim.x) * vocab);
  Workspace work{.scores = floats + blockIdx.x * vocab, .running = running, .tokens = ints + blockIdx.x * vocab};
  if (a.logprobs != nullptr) {
    for (int i = int(threadIdx.x); i < 1 + a.tops; i += kThreads) {
      a.logprobs[size_t(r) * size_t(1 + a.tops) + size_t(i)] = -INFINITY;
      if (i < a.tops) a.top_ids[size_t(r) * size_t(a.tops) + size_t(i)] = -1;
    }
  }
  if (!asked || batch.sample[r].mode == 0) {
    if (threadIdx.x == 0) a.ids[r] = kNotAsked;
    return;
  }
  const SampleView row = batch.sample[r];
  const float* logits = a.logits + size_t(r) * vocab;
  const auto* changes =
      reinterpret_cast<const ChangeView*>(reinterpret_cast<const uint8_t*>(batch.header) + batch.header->changes_at);
  const int token =
      is_plain_greedy(row) ? choose_greedy(keys, s) : choose(logits, row, changes, a.vocab, *a.table, work, s);
  if (threadIdx.x == 0) a.ids[r] = token;
  __syncthreads();
  if (a.logprobs != nullptr && row.logprob != 0 && token >= 0)
    write_logprobs(a, r, logits, token, row.top_logprobs, *a.table, s);
}

}  // namespace

size_t sample_workspace(int rows, int vocab) {
  return size_t(rows < kSampleRows ? rows : kSampleRows) * size_t(vocab) *
             (sizeof(double) + sizeof(float) + sizeof(int32_t)) +
         kSampleRows * kSlices * sizeof(uint64_t);
}

void sample(const SampleArgs& a, const BatchView& batch, cudaStream_t stream) {
  for (int first = 0; first < a.rows; first += kSampleRows) {
    const int rows = a.rows - first < kSampleRows ? a.rows - first : kSampleRows;
    const bool asked = batch.sample != nullptr;
    if (asked)
      launch_overlapping("sample", slice_kernel, {unsigned(rows), kSlices}, {kSliceThreads}, 0, stream, a, batch,
                         first);
    launch_overlapping("sample", sample_kernel, {unsigned(rows)}, {kThreads}, 0, stream, a, batch, first, asked);
  }
}

}  // namespace bumblebee::cuda
