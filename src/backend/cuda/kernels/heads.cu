// Weights are decoded one by one, once for up to eight rows. Of W a warp has a row, whose lanes share its elements; of
// Wᵀ a lane has a column and the warps of a block share its elements.
#include "backend/cuda/kernels/heads.h"

#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRows = 8;  // of x, at a time

/// Where a head of a row begins in x and in y.
struct Places {
  int in, out;
  const float* x;
  float* y;
  int count;  // rows of this block
  __device__ Places(const HeadsArgs& a, int head, int first_row)
      : in(a.transposed ? a.stored_out : a.weight.in), out(a.transposed ? a.weight.in : a.stored_out) {
    x = a.x + (size_t(first_row) * size_t(a.heads) + size_t(head)) * size_t(in + a.rest);
    y = a.y + (size_t(first_row) * size_t(a.heads) + size_t(head)) * size_t(out + a.rest);
    count = min(kRows, a.rows - first_row);
  }
};

/// Grid: outputs (and the rest) by warps, heads, rows by kRows.
__global__ void __launch_bounds__(kWarps* kWarp) rows_kernel(HeadsArgs a) {
  launch_dependents();
  const int lane = int(threadIdx.x) % kWarp, n = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  const int head = int(blockIdx.y);
  const Places at(a, head, int(blockIdx.z) * kRows);
  const size_t x_row = size_t(a.heads) * size_t(at.in + a.rest), y_row = size_t(a.heads) * size_t(at.out + a.rest);
  wait_for_inputs();
  if (n >= at.out + a.rest) return;
  if (n >= at.out) {
    if (lane < at.count)
      __stcg(at.y + size_t(lane) * y_row + n, __ldcg(at.x + size_t(lane) * x_row + at.in + n - at.out));
    return;
  }
  float sum[kRows] = {};
  for (int i = lane; i < at.in; i += kWarp) {
    const float w = load_weight(a.weight, head * a.stored_out + n, i);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (r < at.count) sum[r] = fmaf(w, __ldcg(at.x + size_t(r) * x_row + i), sum[r]);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float all = warp_sum(sum[r]);
    if (lane == 0 && r < at.count) __stcg(at.y + size_t(r) * y_row + n, all);
  }
}

/// Grid: outputs (and the rest) by lanes, heads, rows by kRows.
__global__ void __launch_bounds__(kWarps* kWarp) columns_kernel(HeadsArgs a) {
  __shared__ float part[kWarps][kRows][kWarp];
  launch_dependents();
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, c = int(blockIdx.x) * kWarp + lane;
  const int head = int(blockIdx.y);
  const Places at(a, head, int(blockIdx.z) * kRows);
  const size_t x_row = size_t(a.heads) * size_t(at.in + a.rest), y_row = size_t(a.heads) * size_t(at.out + a.rest);
  wait_for_inputs();
  float sum[kRows] = {};
  if (c < at.out) {
#pragma unroll 4
    for (int n = warp; n < at.in; n += kWarps) {
      const float w = load_weight(a.weight, head * a.stored_out + n, c);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (r < at.count) sum[r] = fmaf(w, __ldcg(at.x + size_t(r) * x_row + n), sum[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) part[warp][r][lane] = sum[r];
  __syncthreads();
  const int row = warp;  // each adds one row's up
  static_assert(kRows == kWarps);
  if (row >= at.count || c >= at.out + a.rest) return;
  if (c >= at.out) {
    __stcg(at.y + size_t(row) * y_row + c, __ldcg(at.x + size_t(row) * x_row + at.in + c - at.out));
    return;
  }
  float all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) all += part[w][row][lane];
  __stcg(at.y + size_t(row) * y_row + c, all);
}

unsigned divided(int n, int by) { return unsigned((n + by - 1) / by); }

}  // namespace

void matmul_heads(const HeadsArgs& a, cudaStream_t stream) {
  const unsigned heads = unsigned(a.heads), rows = divided(a.rows, kRows);
  if (a.transposed) {
    launch_overlapping("matmul_heads", columns_kernel, {divided(a.weight.in + a.rest, kWarp), heads, rows},
                       {kWarps * kWarp}, 0, stream, a);
    return;
  }
  launch_overlapping("matmul_heads", rows_kernel, {divided(a.stored_out + a.rest, kWarps), heads, rows},
                     {kWarps * kWarp}, 0, stream, a);
}

}  // namespace bumblebee::cuda
