// Adapters of steps of many rows, on tensor cores: sixteen rows a block, for each slot among them. x and u = A x are
// the sum of two bf16 numbers each, as x is in matmul_many; factors are bf16. A row's sums do not depend on the others
// of its block, nor on their slots.
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/lora.h"
#include "backend/cuda/kernels/low_rank.cuh"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/wide_site.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kShrinkThreads = 1024, kShrinkWarps = kShrinkThreads / kWarp;
constexpr int kRows = 16, kStep = 16;  // of an MMA: rows, and inputs or ranks
constexpr int kColumns = 8;            // of an MMA: ranks, or columns of y
constexpr int kWarpColumns = 32;       // of y
constexpr int kPasses = 2;             // tiles of eight ranks of one pass over x

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two f32 as pairs of bf16 whose sums they are.
struct Pair {
  uint32_t high, low;
};
__device__ __forceinline__ Pair split(float2 v) {
  const __nv_bfloat162 high = __floats2bfloat162_rn(v.x, v.y);
  const float2 back = __bfloat1622float2(high);
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x - back.x, v.y - back.y);
  return {*reinterpret_cast<const uint32_t*>(&high), *reinterpret_cast<const uint32_t*>(&low)};
}
__device__ __forceinline__ uint32_t two_factors(const __nv_bfloat16* at) {
  return __ldg(reinterpret_cast<const uint32_t*>(at));
}

/// The slots of a block's rows; rows that have none, or come after the last, have null.
__device__ __forceinline__ void find_sites(const LoraArgs& a, const BatchView& batch, const SiteView** sites) {
  const int i = int(threadIdx.x), row = int(blockIdx.x) * kRows + i;
  if (i < kRows) sites[i] = row < a.rows ? site_of(batch, a.logit_rows ? batch.logit_rows[row] : row, a.site) : nullptr;
  if (a.rest && i < kRows && sites[i] != nullptr && is_wide(*sites[i])) sites[i] = nullptr;  // all is done
  __syncthreads();
}
/// Whether row `i` is the first of its slot.
__device__ __forceinline__ bool is_first(const SiteView* const* sites, int i) {
  for (int j = 0; j < i; ++j)
    if (sites[j] == sites[i]) return false;
  return sites[i] != nullptr;
}

/// u of sixteen rows. Warps share the inputs; sums are added in their order.
__global__ void __launch_bounds__(kShrinkThreads)
    shrink_kernel(const __grid_constant__ LoraModules modules, BatchView batch) {
  __shared__ const SiteView* sites[kRows];
  __shared__ float sums[kShrinkWarps][kPasses][kWarp][4];
  launch_dependents();
  const LoraArgs& a = modules.of[blockIdx.y];
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, row0 = int(blockIdx.x) * kRows;
  find_sites(a, batch, sites);
  wait_for_inputs();
  const int steps = a.in / kStep, begin = warp * steps / kShrinkWarps, end = (warp + 1) * steps / kShrinkWarps;
  const float* x[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = min(row0 + lane / 4 + h * 8, a.rows - 1);
    x[h] = a.x + size_t(row) * size_t(a.in) + lane % 4 * 2;
  }
#pragma unroll 1
  for (int leader = 0; leader < kRows; ++leader) {
    if (!is_first(sites, leader)) continue;
    const SiteView& site = *sites[leader];
#pragma unroll 1
    for (int first = 0; place_of_rank(site, first).term != nullptr; first += kPasses * kColumns) {
      const __nv_bfloat16* factors[kPasses];  // of the rank that this lane loads
#pragma unroll
      for (int p = 0; p < kPasses; ++p) {
        const RankPlace place = place_of_rank(site, first + p * kColumns + lane / 4);
        factors[p] = place.exists() ? static_cast<const __nv_bfloat16*>(place.term->a) +
                                          size_t(place.rank) * size_t(a.in) + lane % 4 * 2
                                    : nullptr;
      }
      float c[kPasses][4] = {};
#pragma unroll 4
      for (int step = begin; step < end; ++step) {
        const int k = step * kStep;
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Pair v = split(__ldcg(reinterpret_cast<const float2*>(x[i % 2] + k + i / 2 * 8)));
          high[i] = v.high, low[i] = v.low;
        }
#pragma unroll
        for (int p = 0; p < kPasses; ++p) {
          if (first + p * kColumns >= a.ranks) continue;
          const uint32_t b0 = factors[p] != nullptr ? two_factors(factors[p] + k) : 0u,
                         b1 = factors[p] != nullptr ? two_factors(factors[p] + k + 8) : 0u;
          multiply(c[p], high, b0, b1);
          multiply(c[p], low, b0, b1);
        }
      }
#pragma unroll
      for (int p = 0; p < kPasses; ++p)
        *reinterpret_cast<float4*>(sums[warp][p][lane]) = {c[p][0], c[p][1], c[p][2], c[p][3]};
      __syncthreads();
      for (int i = int(threadIdx.x); i < kPasses * kWarp * 4; i += kShrinkThreads) {
        const int p = i / (kWarp * 4), at = i / 4 % kWarp, e = i % 4;
        const int row = at / 4 + e / 2 * 8, rank = first + p * kColumns + at % 4 * 2 + e % 2;
        if (sites[row] != &site || rank >= a.ranks) continue;
        float sum = 0;
        for (int w = 0; w < kShrinkWarps; ++w) sum += sums[w][p][at][e];
        __stcg(a.u + size_t(row0 + row) * size_t(a.ranks) + size_t(rank), sum);
      }
      __syncthreads();
    }
  }
}

/// What a lane has of y: rows g and g + 8 of an MMA, and of its 32 columns those from 8t on. Column 2t + e of MMA j is
/// column 8t + 2j + e of y, so that a lane's columns follow each other.
constexpr int kTiles = kWarpColumns / kColumns;
struct Outputs {
  float v[2][2 * kTiles];  // [row half]
};

/// Adds the terms of one slot to y of its rows, all at once.
__device__ __forceinline__ void add_terms(const LoraArgs& a, const SiteView& site, const bool (&mine)[2],
                                          const float* const (&u)[2], int column, int lane, Outputs& y) {
  Outputs change = {};
  const int own = column + lane % 4 * 8;
#pragma unroll 1
  for (int t = 0, at = 0; t < site.terms; ++t) {
    const LowRankView term = site.term[t];
    const int padded = padded_rank(term.rank);
    float c[kTiles][4] = {};
#pragma unroll 1
    for (int k = 0; k < padded; k += kStep) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int rank = k + i / 2 * 8 + lane % 4 * 2;
        const bool there = mine[i % 2] && rank < padded;
        const Pair v = split(there ? __ldcg(reinterpret_cast<const float2*>(u[i % 2] + at + rank)) : float2{0, 0});
        high[i] = v.high, low[i] = v.low;
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int n = column + lane / 8 * 8 + j * 2 + lane / 4 % 2, rank = k + lane % 4 * 2;
        const __nv_bfloat16* b = static_cast<const __nv_bfloat16*>(term.b) + size_t(n) * size_t(padded) + size_t(rank);
        const uint32_t b0 = n < a.out ? two_factors(b) : 0u,
                       b1 = n < a.out && rank + 8 < padded ? two_factors(b + 8) : 0u;
        multiply(c[j], high, b0, b1);
        multiply(c[j], low, b0, b1);
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = 2 * j + e % 2;
        const float sum = term.bias != nullptr && own < a.out ? c[j][e] + term.bias[own + i] : c[j][e];
        change.v[e / 2][i] = fmaf(term.scale, sum, change.v[e / 2][i]);
      }
    at += padded;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i)
      if (mine[h]) y.v[h][i] += change.v[h][i];
}

__global__ void __launch_bounds__(kThreads)
    expand_kernel(const __grid_constant__ LoraModules modules, BatchView batch) {
  __shared__ const SiteView* sites[kRows];
  launch_dependents();
  const LoraArgs& a = modules.of[blockIdx.z];
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, row0 = int(blockIdx.x) * kRows;
  const int column = (int(blockIdx.y) * kWarps + warp) * kWarpColumns, own = column + lane % 4 * 8;
  find_sites(a, batch, sites);
  wait_for_inputs();
  if (column >= a.out) return;
  const SiteView* const site[2] = {sites[lane / 4], sites[lane / 4 + 8]};
  const float* u[2];
  float* at[2];
  bool there[2];  // and something changes it
  Outputs y = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row0 + lane / 4 + h * 8, known = row < a.rows ? row : a.rows - 1;
    u[h] = a.u + size_t(known) * size_t(a.ranks);
    at[h] = a.y + size_t(known) * size_t(a.out) + size_t(own);
    there[h] = row < a.rows && own < a.out && (site[h] != nullptr || a.bias != nullptr);
    if (!there[h]) continue;
    const Eight v = load_eight(at[h]);
    const bool biased = a.bias != nullptr && (site[h] == nullptr || site[h]->before_bias == 0);
#pragma unroll
    for (int i = 0; i < 8; ++i) y.v[h][i] = biased ? v.v[i] + a.bias[own + i] : v.v[i];
  }
#pragma unroll 1
  for (int leader = 0; leader < kRows; ++leader) {
    if (!is_first(sites, leader)) continue;
    const bool mine[2] = {site[0] == sites[leader], site[1] == sites[leader]};
    add_terms(a, *sites[leader], mine, u, column, lane, y);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (!there[h]) continue;
    Eight v;
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] = y.v[h][i];
    if (site[h] != nullptr && site[h]->dora_scale != nullptr)
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] *= site[h]->dora_scale[own + i];
    if (site[h] != nullptr && site[h]->before_bias != 0) {
      const float* bias = site[h]->bias != nullptr ? site[h]->bias : a.bias;
      if (bias != nullptr)
#pragma unroll
        for (int i = 0; i < 8; ++i) v.v[i] += bias[own + i];
    }
    store_eight(at[h], v);
  }
}

}  // namespace

bool has_lora_many(const LoraArgs& a) { return a.in % kStep == 0 && a.out % 8 == 0; }

void lora_apply_many(const LoraArgs* modules, int count, const BatchView& batch, cudaStream_t stream) {
  LoraModules all;
  int out = 0;
  for (int i = 0; i < count; ++i) all.of[i] = modules[i], out = modules[i].out > out ? modules[i].out : out;
  const unsigned tiles = unsigned((modules[0].rows + kRows - 1) / kRows);
  constexpr int kBlockColumns = kWarps * kWarpColumns;
  if (modules[0].ranks > 0)
    launch_overlapping("lora_shrink", shrink_kernel, {tiles, unsigned(count)}, {kShrinkThreads}, 0, stream, all, batch);
  launch_overlapping("lora_expand", expand_kernel,
                     {tiles, unsigned((out + kBlockColumns - 1) / kBlockColumns), unsigned(count)}, {kThreads}, 0,
                     stream, all, batch);
}

}  // namespace bumblebee::cuda
