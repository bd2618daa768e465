// One block for a row (or a warp for a head): nothing here is read twice from memory.
#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/rope.h"
#include "backend/cuda/kernels/row_norm.cuh"
#include "backend/cuda/kernels/rows.h"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void embed_kernel(WeightView table, BatchView batch, float* y) {
  // In this order: kernels read the batch before they wait for their inputs, so none may begin before it is there.
  wait_for_inputs();
  launch_dependents();
  const int row = int(blockIdx.x), token = batch.tokens[row];
  const bool known = token >= 0 && token < table.out;
  const int i = int(blockIdx.y) * kThreads + int(threadIdx.x);
  if (i < table.in)
    y[size_t(row) * size_t(table.in) + size_t(i)] = known ? load_weight(table, token, i) : __int_as_float(0x7fc00000);
}

__global__ void rms_norm_kernel(NormArgs a, BatchView batch) {
  __shared__ float scratch[32];
  launch_dependents();
  const int run = int(blockIdx.x), runs = a.cols / a.width, row = run / runs;
  const float* w = a.w;
  if (a.site >= 0) {
    const SiteView* site = site_of(batch, a.logit_rows ? batch.logit_rows[row] : row, a.site);
    if (site != nullptr && site->norm != nullptr) w = site->norm;
  }
  const float* x = a.x + size_t(run) * size_t(a.width);
  float* y = a.y + size_t(run) * size_t(a.width);
  const int normed = a.normed > 0 ? a.normed : a.width;
  wait_for_inputs();
  float squares = 0;
  for (int i = int(threadIdx.x); i < normed; i += int(blockDim.x)) {
    const float v = __ldcg(x + i);
    squares = fmaf(v, v, squares);
  }
  const float inverse = 1 / sqrtf(block_sum(squares, scratch) / float(normed) + a.eps);
  for (int i = int(threadIdx.x); i < normed; i += int(blockDim.x)) __stcg(y + i, __ldcg(x + i) * inverse * w[i]);
  for (int i = normed + int(threadIdx.x); i < a.width; i += int(blockDim.x)) __stcg(y + i, __ldcg(x + i));
}

/// Whether rows come in octets, which row_norm.cuh takes. Of the shape alone, so that a row has one order of sums.
bool in_octets(int cols) { return cols % 8 == 0; }

/// Eight columns of what a row's experts made.
__device__ inline Eight mixed_eight(const ExpertSum& e, size_t row, int cols, int column) {
  Eight sum = {};
#pragma unroll 4
  for (int j = 0; j < e.top_k; ++j) {
    const size_t at = row * size_t(e.top_k) + size_t(j);
    const float weight = __ldcg(e.weights + at);
    const Eight v = load_eight(e.y + size_t(__ldcg(e.order + at)) * size_t(cols) + size_t(column));
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] = fmaf(weight, v.v[i], sum.v[i]);
  }
  return sum;
}

/// What is added to a row: delta (null: nothing), the same after a norm of its own, or what experts made.
enum class Added { delta, normed, experts };
struct AddedNorm {
  const float* w = nullptr;
  float eps = 0;
};

/// x += that, then y = rms_norm(x) (null: no norm).
template <Added What>
__global__ void __launch_bounds__(kRoundThreads)
    row_kernel(float* x, const float* delta, AddedNorm own, ExpertSum experts, float* y, NormArgs a, BatchView batch) {
  constexpr bool kMixed = What == Added::experts, kNormed = What == Added::normed;
  __shared__ float scratch[kRoundThreads / kWarp], own_scratch[kNormed ? kRoundThreads / kWarp : 1];
  constexpr int kKept = 2;
  launch_dependents();
  const int row = int(blockIdx.x), octets = a.cols / 8;
  const float* w = a.w;
  if (a.site >= 0) {
    const SiteView* site = site_of(batch, a.logit_rows ? batch.logit_rows[row] : row, a.site);
    if (site != nullptr && site->norm != nullptr) w = site->norm;
  }
  wait_for_inputs();
  const size_t first = size_t(row) * size_t(a.cols);
  x += first;
  Eight kept[kKept] = {};
  float own_inverse = 1;
  if constexpr (kNormed) {
    float own_squares = 0;
    for (int octet = int(threadIdx.x); octet < octets; octet += kRoundThreads)
      own_squares = sum_squares(load_eight(delta + first + octet * 8), own_squares);
    store_sum(own_squares, own_scratch);
    __syncthreads();
    own_inverse = inverse_rms(own_scratch, a.cols, own.eps);
  }
  float squares = 0;
  const auto take = [&](int octet) {
    Eight v = load_eight(x + octet * 8);
    if (!kMixed && delta == nullptr) return v;
    Eight d;
    if constexpr (kMixed)
      d = mixed_eight(experts, size_t(row), a.cols, octet * 8);
    else
      d = load_eight(delta + first + octet * 8);
    if constexpr (kNormed) d = scaled(d, own.w, own_inverse, octet * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] += d.v[i];
    store_eight(x + octet * 8, v);
    return v;
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int octet = int(threadIdx.x) + j * kRoundThreads;
    if (octet >= octets) continue;
    kept[j] = take(octet);
    squares = sum_squares(kept[j], squares);
  }
  for (int octet = int(threadIdx.x) + kKept * kRoundThreads; octet < octets; octet += kRoundThreads)
    squares = sum_squares(take(octet), squares);
  if (y == nullptr) return;
  store_sum(squares, scratch);
  __syncthreads();
  const float inverse = inverse_rms(scratch, a.cols, a.eps);
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int octet = int(threadIdx.x) + j * kRoundThreads;
    if (octet < octets) store_eight(y + first + octet * 8, scaled(kept[j], w, inverse, octet * 8));
  }
  for (int octet = int(threadIdx.x) + kKept * kRoundThreads; octet < octets; octet += kRoundThreads)
    store_eight(y + first + octet * 8, scaled(load_eight(x + octet * 8), w, inverse, octet * 8));
}

__global__ void __launch_bounds__(kThreads) sum_kernel(ExpertSum e, int cols, float* to) {
  launch_dependents();
  const size_t first = size_t(blockIdx.x) * size_t(e.top_k);
  const int column = (int(blockIdx.y) * kThreads + int(threadIdx.x)) * 4;
  const bool whole = cols % 4 == 0;
  wait_for_inputs();
  if (column >= cols) return;
  float4 sum = {0, 0, 0, 0};
  for (int j = 0; j < e.top_k; ++j) {
    const float weight = __ldcg(e.weights + first + size_t(j));
    const float* const from = e.y + size_t(__ldcg(e.order + first + size_t(j))) * size_t(cols) + size_t(column);
    float4 v = {0, 0, 0, 0};
    if (whole) {
      v = __ldcg(reinterpret_cast<const float4*>(from));
    } else {
      v.x = from[0];
      if (column + 1 < cols) v.y = from[1];
      if (column + 2 < cols) v.z = from[2];
      if (column + 3 < cols) v.w = from[3];
    }
    sum.x = fmaf(weight, v.x, sum.x), sum.y = fmaf(weight, v.y, sum.y);
    sum.z = fmaf(weight, v.z, sum.z), sum.w = fmaf(weight, v.w, sum.w);
  }
  float* const at = to + size_t(blockIdx.x) * size_t(cols) + size_t(column);
  if (whole) {
    *reinterpret_cast<float4*>(at) = sum;
    return;
  }
  at[0] = sum.x;
  if (column + 1 < cols) at[1] = sum.y;
  if (column + 2 < cols) at[2] = sum.z;
  if (column + 3 < cols) at[3] = sum.w;
}

__global__ void add_kernel(float* x, const float* delta, size_t count) {
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) x[i] += delta[i];
}

__global__ void soft_cap_kernel(float* x, size_t count, float cap) {
  launch_dependents();
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  wait_for_inputs();
  if (i < count) __stcg(x + i, cap * tanhf(__ldcg(x + i) / cap));
}

__global__ void keep_kernel(BatchView batch, int32_t* to) {
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x), count = batch.logit_row_count;
  if (i >= count) return;
  const int row = batch.logit_rows[i];
  to[kRowToken * count + i] = batch.tokens[row];
  to[kRowPosition * count + i] = batch.positions[row];
  to[kRowSlot * count + i] = batch.slot[row];
  to[kRowCached * count + i] = batch.cached[row];
  to[kRowFirstPage * count + i] = batch.first_page[row];
  to[kRowStretched * count + i] = batch.stretched[row];
  to[kRowLogit * count + i] = i;
}

__global__ void gather_kernel(const float* x, float* y, int cols, BatchView batch) {
  launch_dependents();
  const size_t from = size_t(batch.logit_rows[blockIdx.x]) * size_t(cols), to = size_t(blockIdx.x) * size_t(cols);
  const int i = int(blockIdx.y) * kThreads + int(threadIdx.x);
  wait_for_inputs();
  if (i < cols) __stcg(y + to + size_t(i), __ldcg(x + from + size_t(i)));
}

/// Whole warps, so that narrow rows do not wake many that have nothing to do; one for what may be a head, whose sum has
/// the order of rope.cu.
int threads_for(int cols) { return cols <= kMaxHeadDim ? kWarp : cols >= 4096 ? 1024 : 512; }

}  // namespace

void embed(const WeightView& table, const BatchView& batch, float* y, cudaStream_t stream) {
  launch_overlapping("embed", embed_kernel, {unsigned(batch.rows), unsigned((table.in + kThreads - 1) / kThreads)},
                     {kThreads}, 0, stream, table, batch, y);
}

void rms_norm(const NormArgs& args, const BatchView& batch, cudaStream_t stream) {
  if (args.width == args.cols && args.normed == 0 && in_octets(args.cols)) {
    launch_overlapping("rms_norm", row_kernel<Added::delta>, {unsigned(args.rows)}, {kRoundThreads}, 0, stream,
                       const_cast<float*>(args.x), nullptr, AddedNorm(), ExpertSum(), args.y, args, batch);
    return;
  }
  launch_overlapping("rms_norm", rms_norm_kernel, {unsigned(args.rows * (args.cols / args.width))},
                     {unsigned(threads_for(args.width))}, 0, stream, args, batch);
}

void add_rms_norm(float* x, const float* delta, const NormArgs& norm, const BatchView& batch, cudaStream_t stream) {
  const size_t count = size_t(norm.rows) * size_t(norm.cols);
  if (in_octets(norm.cols)) {
    launch_overlapping("add_rms_norm", row_kernel<Added::delta>, {unsigned(norm.rows)}, {kRoundThreads}, 0, stream, x,
                       delta, AddedNorm(), ExpertSum(), norm.y, norm, batch);
    return;
  }
  launch("add", add_kernel, {unsigned((count + kThreads - 1) / kThreads)}, {kThreads}, 0, stream, x, delta, count);
  if (norm.y != nullptr) rms_norm(norm, batch, stream);
}

void sum_experts(const ExpertSum& sum, int rows, int cols, float* to, cudaStream_t stream) {
  launch_overlapping("sum_experts", sum_kernel, {unsigned(rows), unsigned((cols + kThreads * 4 - 1) / (kThreads * 4))},
                     {kThreads}, 0, stream, sum, cols, to);
}

void add_experts(float* x, const ExpertSum& sum, const NormArgs& norm, const BatchView& batch, cudaStream_t stream) {
  launch_overlapping("add_experts", row_kernel<Added::experts>, {unsigned(norm.rows)}, {kRoundThreads}, 0, stream, x,
                     nullptr, AddedNorm(), sum, norm.y, norm, batch);
}

void add_normed(float* x, const NormArgs& delta, const NormArgs& norm, const BatchView& batch, cudaStream_t stream) {
  launch_overlapping("add_normed", row_kernel<Added::normed>, {unsigned(norm.rows)}, {kRoundThreads}, 0, stream, x,
                     delta.x, AddedNorm{delta.w, delta.eps}, ExpertSum(), norm.y, norm, batch);
}

void soft_cap(float* x, size_t count, float cap, cudaStream_t stream) {
  launch_overlapping("soft_cap", soft_cap_kernel, {unsigned((count + kThreads - 1) / kThreads)}, {kThreads}, 0, stream,
                     x, count, cap);
}

void keep_logit_rows(const BatchView& batch, int32_t* to, cudaStream_t stream) {
  launch("keep_logit_rows", keep_kernel, {unsigned((batch.logit_row_count + kThreads - 1) / kThreads)}, {kThreads}, 0,
         stream, batch, to);
}

void gather_rows(const float* x, float* y, int cols, const BatchView& batch, cudaStream_t stream) {
  launch_overlapping("gather_rows", gather_kernel,
                     {unsigned(batch.logit_row_count), unsigned((cols + kThreads - 1) / kThreads)}, {kThreads}, 0,
                     stream, x, y, cols, batch);
}

}  // namespace bumblebee::cuda
