// One block for a row (or a warp for a head): nothing here is read twice from memory.
#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/rows.h"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void embed_kernel(WeightView table, BatchView batch, float* y) {
  const int row = int(blockIdx.x), token = batch.tokens[row];
  const bool known = token >= 0 && token < table.out;
  for (int i = int(threadIdx.x); i < table.in; i += kThreads)
    y[size_t(row) * size_t(table.in) + size_t(i)] = known ? load_weight(table, token, i) : __int_as_float(0x7fc00000);
}

__global__ void resolve_kernel(BatchView batch, const int32_t* chosen, int chosen_rows) {
  for (int row = int(threadIdx.x); row < batch.rows; row += kThreads) {
    const int token = batch.tokens[row];
    if (token < 0 && -1 - token < chosen_rows) batch.tokens[row] = chosen[-1 - token];
  }
}

__global__ void rms_norm_kernel(NormArgs a, BatchView batch) {
  __shared__ float scratch[32];
  const int run = int(blockIdx.x), runs = a.cols / a.width, row = run / runs;
  const float* w = a.w;
  if (a.site >= 0) {
    const SiteView* site = site_of(batch, a.logit_rows ? batch.logit_rows[row] : row, a.site);
    if (site != nullptr && site->norm != nullptr) w = site->norm;
  }
  const float* x = a.x + size_t(run) * size_t(a.width);
  float* y = a.y + size_t(run) * size_t(a.width);
  float squares = 0;
  for (int i = int(threadIdx.x); i < a.width; i += int(blockDim.x)) squares = fmaf(x[i], x[i], squares);
  const float inverse = 1 / sqrtf(block_sum(squares, scratch) / float(a.width) + a.eps);
  for (int i = int(threadIdx.x); i < a.width; i += int(blockDim.x)) y[i] = x[i] * inverse * w[i];
}

/// A thread keeps its part of the row, where that is not too long, between the two passes over it.
__global__ void add_rms_norm_kernel(float* x, const float* delta, const float* w, float eps, float* y, int cols) {
  __shared__ float scratch[32];
  constexpr int kKept = 8;
  const size_t first = size_t(blockIdx.x) * size_t(cols);
  const int step = int(blockDim.x);
  float kept[kKept] = {}, squares = 0;
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = int(threadIdx.x) + j * step;
    if (i >= cols) continue;
    kept[j] = x[first + size_t(i)] + delta[first + size_t(i)];
    squares = fmaf(kept[j], kept[j], squares);
  }
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    if (int(threadIdx.x) + j * step < cols) x[first + size_t(int(threadIdx.x) + j * step)] = kept[j];
  }
  for (int i = int(threadIdx.x) + kKept * step; i < cols; i += step) {
    const float sum = x[first + size_t(i)] + delta[first + size_t(i)];
    x[first + size_t(i)] = sum;
    squares = fmaf(sum, sum, squares);
  }
  if (y == nullptr) return;
  const float inverse = 1 / sqrtf(block_sum(squares, scratch) / float(cols) + eps);
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = int(threadIdx.x) + j * step;
    if (i < cols) y[first + size_t(i)] = kept[j] * inverse * w[i];
  }
  for (int i = int(threadIdx.x) + kKept * step; i < cols; i += step)
    y[first + size_t(i)] = x[first + size_t(i)] * inverse * w[i];
}

/// A warp for each head.
__global__ void norm_rope_kernel(float* x, int heads, int dim, const float* w, float eps, RopeArgs rope,
                                 BatchView batch) {
  const int warps = int(blockDim.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int index = int(blockIdx.x) * warps + int(threadIdx.x) / kWarp;
  if (index >= batch.rows * heads) return;
  float* head = x + size_t(index) * size_t(dim);
  float inverse = 1;
  if (w != nullptr) {
    float squares = 0;
    for (int i = lane; i < dim; i += kWarp) squares = fmaf(head[i], head[i], squares);
    inverse = 1 / sqrtf(warp_sum(squares) / float(dim) + eps);
  }
  const auto normed = [&](int i) { return w != nullptr ? head[i] * inverse * w[i] : head[i]; };
  const float position = float(batch.positions[index / heads]);
  for (int i = lane; i < rope.half; i += kWarp) {
    float sine, cosine;
    sincosf(__fmul_rn(position, rope.inv_freq[i]), &sine, &cosine);
    sine *= rope.attention_factor;
    cosine *= rope.attention_factor;
    const float a = normed(i), b = normed(i + rope.half);
    head[i] = a * cosine - b * sine;
    head[i + rope.half] = b * cosine + a * sine;
  }
  if (w == nullptr) return;
  for (int i = 2 * rope.half + lane; i < dim; i += kWarp) head[i] = normed(i);
}

__global__ void silu_mul_kernel(const float* gate, const float* up, float* y, size_t count) {
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) y[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

__global__ void gather_kernel(const float* x, float* y, int cols, BatchView batch) {
  const size_t from = size_t(batch.logit_rows[blockIdx.x]) * size_t(cols), to = size_t(blockIdx.x) * size_t(cols);
  for (int i = int(threadIdx.x); i < cols; i += kThreads) y[to + size_t(i)] = x[from + size_t(i)];
}

/// Whole warps, so that narrow rows do not wake many that have nothing to do.
int threads_for(int cols) { return cols >= 4096 ? 1024 : cols >= 1024 ? 512 : cols >= 256 ? 128 : 32; }

}  // namespace

void embed(const WeightView& table, const BatchView& batch, float* y, cudaStream_t stream) {
  launch("embed", embed_kernel, {unsigned(batch.rows)}, {kThreads}, 0, stream, table, batch, y);
}

void resolve_tokens(const BatchView& batch, const int32_t* chosen, int chosen_rows, cudaStream_t stream) {
  launch("resolve_tokens", resolve_kernel, {1}, {kThreads}, 0, stream, batch, chosen, chosen_rows);
}

void rms_norm(const NormArgs& args, const BatchView& batch, cudaStream_t stream) {
  launch("rms_norm", rms_norm_kernel, {unsigned(args.rows * (args.cols / args.width))},
         {unsigned(threads_for(args.width))}, 0, stream, args, batch);
}

void add_rms_norm(float* x, const float* delta, const float* w, float eps, float* y, int rows, int cols,
                  cudaStream_t stream) {
  launch("add_rms_norm", add_rms_norm_kernel, {unsigned(rows)}, {unsigned(threads_for(cols))}, 0, stream, x, delta, w,
         eps, y, cols);
}

void norm_rope(float* x, int heads, int dim, const float* w, float eps, const RopeArgs& rope, const BatchView& batch,
               cudaStream_t stream) {
  constexpr int kHeads = 4;
  launch("norm_rope", norm_rope_kernel, {unsigned((batch.rows * heads + kHeads - 1) / kHeads)}, {kHeads * kWarp}, 0,
         stream, x, heads, dim, w, eps, rope, batch);
}

void silu_mul(const float* gate, const float* up, float* y, size_t count, cudaStream_t stream) {
  launch("silu_mul", silu_mul_kernel, {unsigned((count + kThreads - 1) / kThreads)}, {kThreads}, 0, stream, gate, up, y,
         count);
}

void gather_rows(const float* x, float* y, int cols, const BatchView& batch, cudaStream_t stream) {
  launch("gather_rows", gather_kernel, {unsigned(batch.logit_row_count)}, {kThreads}, 0, stream, x, y, cols, batch);
}

}  // namespace bumblebee::cuda
