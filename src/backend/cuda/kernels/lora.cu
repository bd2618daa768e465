// A row by itself, whatever its neighbours' slots: a block sums one rank of u = A x, a thread one column of y.
#include "backend/cuda/kernels/lora.h"

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

__device__ inline int batch_row(const LoraArgs& a, const BatchView& batch, int row) {
  return a.logit_rows ? batch.logit_rows[row] : row;
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

/// Σ a[i]·x[i] of this thread's elements, eight of them asked for at a time.
template <class T>
__device__ inline float partial_dot(const T* a, const float* x, int count) {
  float sum = 0;
#pragma unroll 8
  for (int k = int(threadIdx.x); k < count; k += kThreads) sum = fmaf(to_float(a[k]), x[k], sum);
  return sum;
}

/// u of a row: terms one after the other, so many ranks each. A block for each rank.
__global__ void shrink_kernel(LoraArgs a, BatchView batch) {
  __shared__ float scratch[32];
  const int row = int(blockIdx.x), wanted = int(blockIdx.y);
  const SiteView* site = site_of(batch, batch_row(a, batch, row), a.site);
  if (site == nullptr) return;
  int rank = wanted;
  for (int t = 0; t < site->terms; ++t) {
    const LowRankView& term = site->term[t];
    if (rank >= term.rank) {
      rank -= term.rank;
      continue;
    }
    const float* x = a.x + size_t(row) * size_t(a.in);
    const size_t first = size_t(rank) * size_t(a.in);
    const float mine = term.element == Element::bf16
                           ? partial_dot(static_cast<const __nv_bfloat16*>(term.a) + first, x, a.in)
                           : partial_dot(static_cast<const float*>(term.a) + first, x, a.in);
    const float sum = block_sum(mine, scratch);
    if (threadIdx.x == 0) a.u[size_t(row) * size_t(a.ranks) + size_t(wanted)] = sum;
    return;
  }
}

/// y + Σ scale·(B u + bias) of one column.
template <class U>
__device__ inline float add_terms(const SiteView& site, int n, int out, float y, U u) {
  int first = 0;
  for (int t = 0; t < site.terms; ++t) {
    const LowRankView term = site.term[t];
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < term.rank; ++i)
      sum = fmaf(load_element(term.b, term.element, size_t(i) * size_t(out) + size_t(n)), u(t, first + i, i), sum);
    if (term.bias != nullptr) sum += term.bias[n];
    y = fmaf(term.scale, sum, y);
    first += term.rank;
  }
  return y;
}

__global__ void expand_kernel(LoraArgs a, BatchView batch) {
  const int row = int(blockIdx.y), n = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (n >= a.out) return;
  const SiteView* site = site_of(batch, batch_row(a, batch, row), a.site);
  float* at = a.y + size_t(row) * size_t(a.out) + size_t(n);
  if (site == nullptr) {
    if (a.bias != nullptr) *at += a.bias[n];
    return;
  }
  float y = *at;
  if (!site->before_bias && a.bias != nullptr) y += a.bias[n];
  const float* u = a.u + size_t(row) * size_t(a.ranks);
  y = add_terms(*site, n, a.out, y, [&](int, int i, int) { return u[i]; });
  if (site->dora_scale != nullptr) y *= site->dora_scale[n];
  const float* bias = site->bias != nullptr ? site->bias : a.bias;
  if (site->before_bias && bias != nullptr) y += bias[n];
  *at = y;
}

__global__ void embed_kernel(LoraArgs a, BatchView batch) {
  const int row = int(blockIdx.y), n = int(blockIdx.x) * kThreads + int(threadIdx.x);
  const SiteView* site = site_of(batch, row, a.site);
  const int token = batch.tokens[row];
  if (site == nullptr || n >= a.out || token < 0) return;
  float* at = a.y + size_t(row) * size_t(a.out) + size_t(n);
  float y = site->weight.codes != nullptr ? load_weight(site->weight, token, n) : *at;
  y = add_terms(*site, n, a.out, y, [&](int t, int, int i) {
    const LowRankView& term = site->term[t];
    return load_element(term.a, term.element, size_t(token) * size_t(term.rank) + size_t(i));
  });
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

void lora_apply(const LoraArgs& a, const BatchView& batch, cudaStream_t stream) {
  launch("lora_shrink", shrink_kernel, {unsigned(a.rows), unsigned(a.ranks)}, {kThreads}, 0, stream, a, batch);
  launch("lora_expand", expand_kernel, {blocks_of(a.out, kThreads), unsigned(a.rows)}, {kThreads}, 0, stream, a, batch);
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
