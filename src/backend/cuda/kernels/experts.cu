// A warp chooses for a row, from keys in shared memory that order as what experts are worth does; then one block sorts
// all assignments by expert. Up to kOneBlockRows rows are one kernel.
#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/experts.h"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256, kSortThreads = 1024;
constexpr int kOneBlockRows = 32;
constexpr unsigned kAll = 0xffffffffu;

/// Orders as doubles do, both zeros alike and NaN as -infinity; none is 0, which stands for what was taken.
__device__ inline uint64_t key_of(double v) {
  if (isnan(v)) v = -INFINITY;
  const uint64_t bits = uint64_t(__double_as_longlong(v + 0.0));  // -0 becomes 0
  return bits >> 63 != 0 ? ~bits : bits | uint64_t(1) << 63;
}
__device__ inline double value_of(uint64_t key) {
  return __longlong_as_double(int64_t(key >> 63 != 0 ? key & ~(uint64_t(1) << 63) : ~key));
}

/// Takes the largest of the keys, of equal ones the first: its place, in all lanes.
__device__ inline int take_best(uint64_t* keys, int count, int lane) {
  uint64_t best = 0;
  unsigned at = 0xffffffffu;
  for (int i = lane; i < count; i += kWarp) {
    if (keys[i] <= best) continue;
    best = keys[i];
    at = unsigned(i);
  }
  const unsigned high = __reduce_max_sync(kAll, unsigned(best >> 32));
  const unsigned low = __reduce_max_sync(kAll, unsigned(best >> 32) == high ? unsigned(best) : 0);
  const bool mine = best == (uint64_t(high) << 32 | low);
  at = __reduce_min_sync(kAll, mine ? at : 0xffffffffu);
  if (lane == 0) keys[at] = 0;
  __syncwarp();
  return int(at);
}

__device__ inline double warp_sum(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}

/// What a warp keeps of a row, in words of eight bytes.
struct RowMemory {
  uint64_t* keys;    // [experts]
  uint64_t* groups;  // [groups]
  double* scores;    // [top_k], of the chosen
  int32_t* chosen;   // [top_k]
};
__host__ __device__ inline int words_of(const RouteArgs& a) { return a.shape.experts + a.groups + 2 * a.shape.top_k; }
__device__ inline RowMemory memory_of(const RouteArgs& a, uint64_t* words) {
  uint64_t* const groups = words + a.shape.experts;
  uint64_t* const scores = groups + a.groups;
  return {words, groups, reinterpret_cast<double*>(scores), reinterpret_cast<int32_t*>(scores + a.shape.top_k)};
}

/// Leaves the best groups: the keys of the others are taken.
__device__ inline void leave_best_groups(const RouteArgs& a, const RowMemory& m, int lane) {
  const int size = a.shape.experts / a.groups;
  for (int g = lane; g < a.groups; g += kWarp) {
    double first = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const double worth = value_of(m.keys[e]);
      second = fmax(second, fmin(first, worth));
      first = fmax(first, worth);
    }
    m.groups[g] = key_of(first + (size > 1 && !a.best_alone ? second : 0.0));
  }
  __syncwarp();
  for (int i = 0; i < a.top_groups; ++i) take_best(m.groups, a.groups, lane);
  for (int e = lane; e < a.shape.experts; e += kWarp)
    if (m.groups[e / size] != 0) m.keys[e] = 0;
  __syncwarp();
}

__device__ inline void choose(const RouteArgs& a, int row, const RowMemory& m, int lane) {
  const int experts = a.shape.experts, top_k = a.shape.top_k;
  const float* const logits = a.logits + size_t(row) * size_t(experts);
  float most = -INFINITY;
  bool lost = false;
  for (int e = lane; e < experts; e += kWarp) most = fmaxf(most, logits[e]), lost = lost || isnan(logits[e]);
  const double highest = double(warp_max(most));
  // A softmax with a NaN among its terms is NaN in all of them, also where only those of the chosen are computed.
  lost = a.softmax && __any_sync(kAll, int(lost)) != 0;
  const auto score = [&](int e) {
    if (lost) return double(NAN);
    return a.softmax ? exp(double(logits[e]) - highest) : 1.0 / (1.0 + exp(-double(logits[e])));
  };
  // Where nothing is added, softmax keeps the order of the logits, and a normalised one needs those of the chosen only.
  const bool by_logits = a.softmax && a.bias == nullptr && a.groups == 1;
  double total = 1.0;
  if (a.softmax && !(by_logits && a.normalise)) {
    double sum = 0.0;
    for (int e = lane; e < experts; e += kWarp) sum += score(e);
    total = warp_sum(sum);
  }
  for (int e = lane; e < experts; e += kWarp) {
    const double worth =
        by_logits ? double(logits[e]) : score(e) / total + (a.bias != nullptr ? double(a.bias[e]) : 0.0);
    m.keys[e] = key_of(worth);
  }
  __syncwarp();
  if (a.groups > 1) leave_best_groups(a, m, lane);
  for (int j = 0; j < top_k; ++j) {
    const int best = take_best(m.keys, experts, lane);
    if (lane == 0) m.chosen[j] = best;
  }
  __syncwarp();
  for (int j = lane; j < top_k; j += kWarp) m.scores[j] = score(m.chosen[j]) / total;
  __syncwarp();
  double sum = a.beside_sum;
  for (int j = 0; a.normalise && j < top_k; ++j) sum += m.scores[j];
  for (int j = lane; j < top_k; j += kWarp) {
    const size_t at = size_t(row) * size_t(top_k) + size_t(j);
    a.experts[at] = m.chosen[j];
    const double own = a.expert_scale != nullptr ? double(a.expert_scale[m.chosen[j]]) : 1.0;
    a.weights[at] = float(m.scores[j] / (a.normalise ? sum : 1.0) * double(a.scale) * own);
  }
}

/// Adds up to three counts of experts as they come: where those of each begin.
struct Places {
  int first, few, wide;
};

/// A block sorts: threads count the assignments of an expert in a piece of the list, and then write them where they
/// belong, so rows stay in order.
__device__ inline void sort_assignments(const RouteArgs& a, int tile_rows, const ExpertPlaces& at, int* counts) {
  const int experts = a.shape.experts, count = a.shape.rows * a.shape.top_k, threads = int(blockDim.x);
  const int pieces = max(1, threads / experts), piece = (count + pieces * 4 - 1) / (pieces * 4) * 4;
  Places* const places = reinterpret_cast<Places*>(counts + pieces * experts);
  const auto each = [&](int p, int e, const auto& found) {
    const int end = min((p + 1) * piece, count);
    int i = p * piece;
    for (; i + 4 <= end; i += 4) {
      const int4 v = *reinterpret_cast<const int4*>(a.experts + i);
      if (v.x == e) found(i);
      if (v.y == e) found(i + 1);
      if (v.z == e) found(i + 2);
      if (v.w == e) found(i + 3);
    }
    for (; i < end; ++i)
      if (a.experts[i] == e) found(i);
  };
  for (int i = int(threadIdx.x); i < pieces * experts; i += threads) {
    int n = 0;
    each(i / experts, i % experts, [&](int) { ++n; });
    counts[i] = n;
  }
  __syncthreads();
  for (int e = int(threadIdx.x); e < experts; e += threads) {
    int n = 0;
    for (int p = 0; p < pieces; ++p) {
      const int more = counts[p * experts + e];
      counts[p * experts + e] = n;
      n += more;
    }
    places[e] = {n, (n + tile_rows - 1) / tile_rows, (n + kWideTileRows - 1) / kWideTileRows};
  }
  __syncthreads();
  int32_t* const tiles = reinterpret_cast<int32_t*>(a.order + at.counts);
  if (threadIdx.x < kWarp) {
    Places sum = {0, 0, 0};
    for (int first = 0; first < experts; first += kWarp) {
      const int e = first + int(threadIdx.x);
      const Places own = e < experts ? places[e] : Places{0, 0, 0};
      Places up = own;
#pragma unroll
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const Places before = {__shfl_up_sync(kAll, up.first, offset), __shfl_up_sync(kAll, up.few, offset),
                               __shfl_up_sync(kAll, up.wide, offset)};
        if (int(threadIdx.x) >= offset) up.first += before.first, up.few += before.few, up.wide += before.wide;
      }
      if (e < experts)
        places[e] = {sum.first + up.first - own.first, sum.few + up.few - own.few, sum.wide + up.wide - own.wide};
      sum.first += __shfl_sync(kAll, up.first, kWarp - 1);
      sum.few += __shfl_sync(kAll, up.few, kWarp - 1);
      sum.wide += __shfl_sync(kAll, up.wide, kWarp - 1);
    }
    if (threadIdx.x == 0) tiles[0] = sum.few, tiles[1] = sum.wide;
  }
  __syncthreads();
  int32_t* const order = reinterpret_cast<int32_t*>(a.order);
  int32_t* const row_of = reinterpret_cast<int32_t*>(a.order + at.row_of);
  for (int i = int(threadIdx.x); i < pieces * experts; i += threads) {
    int n = places[i % experts].first + counts[i];
    each(i / experts, i % experts, [&](int assignment) {
      order[assignment] = n;
      row_of[n++] = assignment / a.shape.top_k;
    });
  }
  for (int e = int(threadIdx.x); e < experts; e += threads) {
    const int begin = places[e].first, end = e + 1 < experts ? places[e + 1].first : count;
    ExpertTile* few = reinterpret_cast<ExpertTile*>(a.order + at.few) + places[e].few;
    for (int i = begin; i < end; i += tile_rows) *few++ = {e, i, min(tile_rows, end - i), 0};
    ExpertTile* wide = reinterpret_cast<ExpertTile*>(a.order + at.wide) + places[e].wide;
    for (int i = begin; i < end; i += kWideTileRows) *wide++ = {e, i, min(kWideTileRows, end - i), 0};
  }
}

extern __shared__ uint64_t route_memory[];

__device__ inline void choose_rows(const RouteArgs& a, int first, int stride) {
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const RowMemory m = memory_of(a, route_memory + warp * words_of(a));
  for (int row = first + warp; row < a.shape.rows; row += stride) choose(a, row, m, lane);
}

__global__ void __launch_bounds__(kSortThreads) route_kernel(RouteArgs a, int tile_rows, ExpertPlaces at) {
  launch_dependents();
  wait_for_inputs();
  choose_rows(a, 0, int(blockDim.x) / kWarp);
  __syncthreads();
  sort_assignments(a, tile_rows, at, reinterpret_cast<int*>(route_memory));
}
__global__ void __launch_bounds__(kThreads) choose_kernel(RouteArgs a) {
  launch_dependents();
  wait_for_inputs();
  choose_rows(a, int(blockIdx.x) * (int(blockDim.x) / kWarp), a.shape.rows);
}
__global__ void __launch_bounds__(kSortThreads) sort_kernel(RouteArgs a, int tile_rows, ExpertPlaces at) {
  launch_dependents();
  wait_for_inputs();
  sort_assignments(a, tile_rows, at, reinterpret_cast<int*>(route_memory));
}

__global__ void __launch_bounds__(kThreads) gate_kernel(float* y, const float* gate, int cols) {
  launch_dependents();
  const int column = int(blockIdx.y) * kThreads + int(threadIdx.x);
  wait_for_inputs();
  if (column >= cols) return;
  float* const at = y + size_t(blockIdx.x) * size_t(cols) + size_t(column);
  *at *= 1 / (1 + expf(-__ldcg(gate + blockIdx.x)));
}

int blocks_for(int count, int each) { return (count + each - 1) / each; }

}  // namespace

void route(const RouteArgs& args, cudaStream_t stream) {
  constexpr size_t kShared = 48 << 10;  // what every kernel may have
  const ExpertShape& shape = args.shape;
  if (shape.rows == 0) return;
  const ExpertPlaces at = expert_places(shape);
  const int tile_rows = few_tile_rows(shape);
  const size_t row_bytes = size_t(words_of(args)) * sizeof(uint64_t);
  const auto sort_bytes = [&](int threads) {
    return size_t(std::max(1, threads / shape.experts)) * size_t(shape.experts) * sizeof(int) +
           size_t(shape.experts) * sizeof(Places);
  };
  const auto warps_for = [&](int rows, int most) {
    return std::max(1, std::min({rows, most, int(kShared / row_bytes)}));
  };
  if (shape.rows <= kOneBlockRows) {
    const int warps = warps_for(shape.rows, kSortThreads / kWarp);
    const int threads = std::max(warps * kWarp, kThreads);
    // All warps of the block may choose.
    const size_t chosen = size_t(threads / kWarp) * row_bytes, bytes = std::max(chosen, sort_bytes(threads));
    if (bytes <= kShared) {
      launch_overlapping("route", route_kernel, {1}, {unsigned(threads)}, bytes, stream, args, tile_rows, at);
      return;
    }
  }
  const int warps = warps_for(shape.rows, kThreads / kWarp);
  allow_shared(choose_kernel, std::max(row_bytes, kShared));
  allow_shared(sort_kernel, std::max(sort_bytes(kSortThreads), kShared));
  launch_overlapping("route", choose_kernel, {unsigned(blocks_for(shape.rows, warps))}, {unsigned(warps * kWarp)},
                     size_t(warps) * row_bytes, stream, args);
  launch_overlapping("sort experts", sort_kernel, {1}, {kSortThreads}, sort_bytes(kSortThreads), stream, args,
                     tile_rows, at);
}

void gate_rows(float* y, const float* gate, int rows, int cols, cudaStream_t stream) {
  launch_overlapping("gate_rows", gate_kernel, {unsigned(rows), unsigned(blocks_for(cols, kThreads))}, {kThreads}, 0,
                     stream, y, gate, cols);
}

}  // namespace bumblebee::cuda
