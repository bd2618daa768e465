// A row by itself, whatever its neighbours' slots: a warp sums one rank of u = A x, a thread one column of y. Products
// of few rows do the same within (product_lora.cuh), in the same order (low_rank.cuh).
#include "backend/cuda/kernels/lora.h"

#include <cstring>

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/lora_rows.cuh"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

__device__ inline int batch_row(const LoraArgs& a, const BatchView& batch, int row) {
  return a.logit_rows ? batch.logit_rows[row] : row;
}

/// What is left to do for a row; null: nothing.
__device__ inline const SiteView* site_left(const LoraArgs& a, const BatchView& batch, int row) {
  const SiteView* const site = site_of(batch, batch_row(a, batch, row), a.site);
  return a.rest && site != nullptr && site->before_bias == 0 ? nullptr : site;
}

__global__ void replace_kernel(LoraArgs a, BatchView batch) {
  const int row = int(blockIdx.y), lane = int(threadIdx.x) % kWarp;
  const int n = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  const SiteView* site = site_of(batch, batch_row(a, batch, row), a.site);
  if (site == nullptr || site->weight.codes == nullptr || n >= a.out) return;
  const float* x = a.x + size_t(row) * size_t(a.in);
  float sum = 0;
  for (int k = lane; k < a.in; k += kWarp) sum = fmaf(load_weight(site->weight, n, k), x[k], sum);
  sum = warp_sum(sum);
  if (lane == 0) a.y[size_t(row) * size_t(a.out) + size_t(n)] = sum;
}

/// u of a row: terms one after the other, each padded_rank(). A block for each rank, whose warps share the inputs.
__global__ void __launch_bounds__(kShrinkWarps* kWarp)
    shrink_kernel(const __grid_constant__ LoraModules modules, BatchView batch) {
  extern __shared__ float pieces[];  // [pieces of x]
  launch_dependents();
  const LoraArgs& a = modules.of[blockIdx.z];
  const int wanted = int(blockIdx.x), row = int(blockIdx.y);
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const SiteView* site = site_left(a, batch, row);
  const RankPlace place = site != nullptr ? place_of_rank(*site, wanted) : RankPlace();
  const bool exists = place.exists();
  const LowRankView term = exists ? *place.term : LowRankView();
  wait_for_inputs();
  if (place.term == nullptr) return;
  if (exists) {
    const float* x = a.x + size_t(row) * size_t(a.in);
    const size_t first = size_t(place.rank) * size_t(a.in);
    if (term.element == Element::bf16)
      dot_pieces<Bf16Octet>(static_cast<const __nv_bfloat16*>(term.a) + first, x, a.in, warp, lane, pieces);
    else
      dot_pieces<F32Octet>(static_cast<const float*>(term.a) + first, x, a.in, warp, lane, pieces);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (int i = 0; exists && i < pieces_of(a.in); ++i) sum += pieces[i];
  __stcg(a.u + size_t(row) * size_t(a.ranks) + size_t(wanted), sum);
}

__global__ void __launch_bounds__(kThreads)
    expand_kernel(const __grid_constant__ LoraModules modules, BatchView batch) {
  extern __shared__ __align__(16) float u[];  // [ranks]
  launch_dependents();
  const LoraArgs& a = modules.of[blockIdx.z];
  const int row = int(blockIdx.y), n = int(blockIdx.x) * kThreads + int(threadIdx.x);
  const SiteView* site = site_left(a, batch, row);
  wait_for_inputs();
  float* at = a.y + size_t(row) * size_t(a.out) + size_t(n);
  if (site == nullptr) {
    if (a.bias != nullptr && n < a.out) __stcg(at, __ldcg(at) + a.bias[n]);
    return;
  }
  for (int i = int(threadIdx.x); i < a.ranks; i += kThreads)
    u[i] = __ldcg(a.u + size_t(row) * size_t(a.ranks) + size_t(i));
  __syncthreads();
  if (n >= a.out) return;
  float y = __ldcg(at);
  if (!site->before_bias && a.bias != nullptr) y += a.bias[n];
  y += add_terms(*site, 0, n, u, 0.0f);
  if (site->dora_scale != nullptr) y *= site->dora_scale[n];
  const float* bias = site->bias != nullptr ? site->bias : a.bias;
  if (site->before_bias && bias != nullptr) y += bias[n];
  __stcg(at, y);
}

__global__ void embed_kernel(LoraArgs a, BatchView batch) {
  const int row = int(blockIdx.y), n = int(blockIdx.x) * kThreads + int(threadIdx.x);
  const SiteView* site = site_of(batch, row, a.site);
  const int token = batch.tokens[row];
  if (site == nullptr || n >= a.out || token < 0) return;
  float* at = a.y + size_t(row) * size_t(a.out) + size_t(n);
  float y = site->weight.codes != nullptr ? load_weight(site->weight, token, n) : *at;
  for (int t = 0; t < site->terms; ++t) {
    const LowRankView term = site->term[t];
    const size_t of_token = size_t(token) * size_t(term.rank), of_column = size_t(n) * size_t(padded_rank(term.rank));
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < term.rank; ++i)
      sum = fmaf(load_element(term.b, term.element, of_column + size_t(i)),
                 load_element(term.a, term.element, of_token + size_t(i)), sum);
    if (term.bias != nullptr) sum += term.bias[n];
    y = fmaf(term.scale, sum, y);
  }
  if (site->dora_scale != nullptr) y *= site->dora_scale[site->dora_by_token ? token : n];
  *at = y;
}

__device__ inline double square_at(const WeightView& w, const float* a, const float* b, int rank, float scale, int n,
                                   int k) {
  float delta = 0;
  for (int i = 0; i < rank; ++i)
    delta = fmaf(b[size_t(n) * size_t(rank) + size_t(i)], a[size_t(i) * size_t(w.in) + size_t(k)], delta);
  const double value = double(load_weight(w, n, k)) + double(scale) * double(delta);
  return value * value;
}

/// A block a row, or a thread a column.
__global__ void squares_kernel(WeightView w, const float* a, const float* b, int rank, float scale, bool by_column,
                               double* squares) {
  __shared__ double sums[kThreads];
  if (by_column) {
    const int k = int(blockIdx.x) * kThreads + int(threadIdx.x);
    if (k >= w.in) return;
    double sum = 0;
    for (int n = 0; n < w.out; ++n) sum += square_at(w, a, b, rank, scale, n, k);
    squares[k] = sum;
    return;
  }
  double sum = 0;
  for (int k = int(threadIdx.x); k < w.in; k += kThreads) sum += square_at(w, a, b, rank, scale, int(blockIdx.x), k);
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[int(threadIdx.x) + half];
  }
  if (threadIdx.x == 0) squares[blockIdx.x] = sums[0];
}

unsigned blocks_of(int count, int each) { return unsigned((count + each - 1) / each); }

}  // namespace

void lora_replace(const LoraArgs& a, const BatchView& batch, cudaStream_t stream) {
  launch("lora_replace", replace_kernel, {blocks_of(a.out, kWarps), unsigned(a.rows)}, {kThreads}, 0, stream, a, batch);
}

void lora_apply(const LoraArgs* modules, int count, const BatchView& batch, cudaStream_t stream) {
  LoraModules all;
  int out = 0;
  for (int i = 0; i < count; ++i) all.of[i] = modules[i], out = modules[i].out > out ? modules[i].out : out;
  const LoraArgs& a = modules[0];
  const size_t shared = size_t(a.ranks) * sizeof(float);
  constexpr size_t kUsual = size_t(48) << 10;
  if (shared > kUsual) allow_shared(expand_kernel, shared);
  launch_overlapping("lora_shrink", shrink_kernel, {unsigned(a.ranks), unsigned(a.rows), unsigned(count)},
                     {kShrinkWarps * kWarp}, size_t(pieces_of(a.in)) * sizeof(float), stream, all, batch);
  launch_overlapping("lora_expand", expand_kernel, {blocks_of(out, kThreads), unsigned(a.rows), unsigned(count)},
                     {kThreads}, shared, stream, all, batch);
}

void lora_embed(const LoraArgs& a, const BatchView& batch, cudaStream_t stream) {
  launch("lora_embed", embed_kernel, {blocks_of(a.out, kThreads), unsigned(a.rows)}, {kThreads}, 0, stream, a, batch);
}

void weight_squares(const WeightView& w, const float* a, const float* b, int rank, float scale, bool by_column,
                    double* squares, cudaStream_t stream) {
  const unsigned blocks = by_column ? blocks_of(w.in, kThreads) : unsigned(w.out);
  launch("weight_squares", squares_kernel, {blocks}, {kThreads}, 0, stream, w, a, b, rank, scale, by_column, squares);
}

}  // namespace bumblebee::cuda
