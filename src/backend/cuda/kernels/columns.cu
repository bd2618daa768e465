// A thread for four elements, or for one column of a row: all of this waits for memory.
#include "backend/cuda/kernels/columns.h"

#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256;

/// Products are not contracted where a sum follows, so that what becomes the end of a product has the same bits.
template <Gate gate>
__device__ inline float gated(float g, float u, float limit, float slope) {
  if constexpr (gate == Gate::silu) return g / (1 + expf(-g)) * u;
  if constexpr (gate == Gate::gelu) {
    const float v = 1.5957691216f * fmaf(0.044715f * g, g * g, g);
    return g / (1 + expf(-v)) * u;
  }
  if constexpr (gate == Gate::sigmoid) return 1 / (1 + expf(-g)) * u;
  if constexpr (gate == Gate::clamped_silu) {
    g = g > limit ? limit : g;  // NaN stays
    u = u > limit ? limit : u < -limit ? -limit : u;
    return g / (1 + expf(-slope * g)) * (u + 1);
  }
  return g * u;
}

/// Four elements a thread, at once where they lie at multiples of 16 bytes: prompts wait for memory here.
template <Gate gate>
__global__ void __launch_bounds__(kThreads) gated_kernel(GateArgs a, bool aligned) {
  launch_dependents();
  const size_t i = (size_t(blockIdx.x) * kThreads + threadIdx.x) * 4;
  wait_for_inputs();
  if (aligned && i + 4 <= a.count) {
    const float4 g = __ldcg(reinterpret_cast<const float4*>(a.gate + i)),
                 u = __ldcg(reinterpret_cast<const float4*>(a.up + i));
    __stcg(reinterpret_cast<float4*>(a.y + i),
           float4{gated<gate>(g.x, u.x, a.limit, a.slope), gated<gate>(g.y, u.y, a.limit, a.slope),
                  gated<gate>(g.z, u.z, a.limit, a.slope), gated<gate>(g.w, u.w, a.limit, a.slope)});
    return;
  }
  for (size_t j = i; j < min(i + 4, a.count); ++j)
    __stcg(a.y + j, gated<gate>(__ldcg(a.gate + j), __ldcg(a.up + j), a.limit, a.slope));
}

__global__ void __launch_bounds__(kThreads) multiply_kernel(float* x, float factor, size_t count) {
  launch_dependents();
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  wait_for_inputs();
  if (i < count) __stcg(x + i, __ldcg(x + i) * factor);
}

__global__ void __launch_bounds__(kThreads) take_kernel(const float* x, int cols, int first, int count, float* y) {
  launch_dependents();
  const size_t row = blockIdx.x;
  const int i = int(blockIdx.y) * kThreads + int(threadIdx.x);
  wait_for_inputs();
  if (i < count) __stcg(y + row * size_t(count) + size_t(i), __ldcg(x + row * size_t(cols) + size_t(first + i)));
}

__global__ void __launch_bounds__(kThreads) split_kernel(SplitArgs a) {
  launch_dependents();
  const size_t row = blockIdx.x;
  const int column = int(blockIdx.y) * kThreads + int(threadIdx.x), cols = a.groups * a.group_cols;
  wait_for_inputs();
  if (column >= cols) return;
  const int group = column / a.group_cols, within = column % a.group_cols;
  int p = 0;
  while (p + 1 < a.pieces && within >= a.piece[p + 1].first) ++p;
  const SplitArgs::Piece& piece = a.piece[p];
  const int at = piece.at + group * piece.cols + within - piece.first;
  __stcg(a.y[piece.to] + row * size_t(a.y_cols[piece.to]) + size_t(at),
         __ldcg(a.x + row * size_t(cols) + size_t(column)));
}

__global__ void __launch_bounds__(kThreads) expert_bias_kernel(ExpertBias a) {
  launch_dependents();
  const int i = int(blockIdx.y) * kThreads + int(threadIdx.x);
  wait_for_inputs();
  if (i >= a.cols) return;
  const size_t assignment = size_t(__ldcg(a.order + blockIdx.x)), expert = size_t(__ldcg(a.experts + blockIdx.x));
  float* const at = a.y + assignment * size_t(a.cols) + size_t(i);
  __stcg(at, __ldcg(at) + __ldg(a.bias + expert * size_t(a.cols) + size_t(i)));
}

unsigned blocks_for(size_t count, size_t each) { return unsigned((count + each - 1) / each); }

}  // namespace

void gated_mul(Gate gate, const GateArgs& args, cudaStream_t stream) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(args.gate) | reinterpret_cast<uintptr_t>(args.up) |
                       reinterpret_cast<uintptr_t>(args.y);
  const auto start = [&](auto* kernel) {
    launch_overlapping("gated_mul", kernel, {blocks_for(args.count, 4 * kThreads)}, {kThreads}, 0, stream, args,
                       at % 16 == 0);
  };
  switch (gate) {
    case Gate::silu: return start(gated_kernel<Gate::silu>);
    case Gate::gelu: return start(gated_kernel<Gate::gelu>);
    case Gate::sigmoid: return start(gated_kernel<Gate::sigmoid>);
    case Gate::clamped_silu: return start(gated_kernel<Gate::clamped_silu>);
    case Gate::identity: return start(gated_kernel<Gate::identity>);
  }
}

void multiply(float* x, float factor, size_t count, cudaStream_t stream) {
  launch_overlapping("multiply", multiply_kernel, {blocks_for(count, kThreads)}, {kThreads}, 0, stream, x, factor,
                     count);
}

void take_columns(const float* x, int rows, int cols, int first, int count, float* y, cudaStream_t stream) {
  launch_overlapping("columns", take_kernel, {unsigned(rows), blocks_for(size_t(count), kThreads)}, {kThreads}, 0,
                     stream, x, cols, first, count, y);
}

void split(const SplitArgs& args, cudaStream_t stream) {
  launch_overlapping("split", split_kernel,
                     {unsigned(args.rows), blocks_for(size_t(args.groups) * size_t(args.group_cols), kThreads)},
                     {kThreads}, 0, stream, args);
}

void add_expert_bias(const ExpertBias& args, cudaStream_t stream) {
  launch_overlapping("add_expert_bias", expert_bias_kernel,
                     {unsigned(args.assignments), blocks_for(size_t(args.cols), kThreads)}, {kThreads}, 0, stream,
                     args);
}

}  // namespace bumblebee::cuda
