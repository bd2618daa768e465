// The convolution has a thread for each column and 32 rows of a sequence. Of the delta rule, columns of a head's matrix
// depend on no other: eight lanes hold one, in registers, and go through all rows with it, so that it is read and
// written once, however long a prompt is. What rows need of all columns (keys and queries of length one, decay, beta) a
// kernel before makes.
#include "backend/cuda/kernels/device.cuh"
#include "backend/cuda/kernels/launch.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/recurrent.h"

namespace bumblebee::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kConvRows = 32;    // of a thread
constexpr int kConvAhead = 8;    // rows that are asked for at once
constexpr int kColumnLanes = 8;  // of a column of a head's matrix
constexpr int kColumns = kThreads / kColumnLanes;
constexpr float kDeltaEps = 1e-6f;  // added to a sum of squares before its root
constexpr unsigned kAll = 0xffffffffu;

/// Blocks whose sequence there is not have rows that belong to nobody, if any are left; -1: none.
__device__ inline int spare_row(const BatchView& batch, int slot) {
  const int row = batch.header->covered_rows + slot - batch.header->state_count;
  return row < batch.rows ? row : -1;
}

/// Most: taps that there are registers for.
template <int Most>
__global__ void __launch_bounds__(kThreads) conv_kernel(ConvArgs a, BatchView batch) {
  launch_dependents();
  const int column = int(blockIdx.x) * kThreads + int(threadIdx.x), slot = int(blockIdx.y);
  const size_t cols = size_t(a.cols);
  wait_for_inputs();
  if (column >= a.cols) return;
  if (slot >= batch.header->state_count) {
    const int row = spare_row(batch, slot);
    if (row >= 0 && blockIdx.z == 0) __stcg(a.y + size_t(row) * cols + size_t(column), 0.0f);
    return;
  }
  const StateView s = batch.states[slot];
  const int begin = int(blockIdx.z) * kConvRows, end = min(begin + kConvRows, s.rows), past = a.taps - 1;
  if (begin >= end) return;
  const float* const x = a.x + size_t(s.first) * cols + size_t(column);
  const float* const kept = s.from != nullptr ? s.from + a.state_at + size_t(column) : nullptr;
  float* const y = a.y + size_t(s.first) * cols + size_t(column);
  // Row i of the sequence's rows; what lies before them is in the state.
  const auto input = [&](int i) {
    if (i >= 0) return __ldcg(x + size_t(i) * cols);
    return kept != nullptr ? __ldcg(kept + size_t(past + i) * cols) : 0.0f;
  };
  float w[Most], window[Most];  // taps from the end of both
#pragma unroll
  for (int j = 0; j < Most; ++j) {
    const int tap = j - (Most - a.taps);
    w[j] = tap >= 0 ? __ldg(a.w + size_t(tap) * cols + size_t(column)) : 0.0f;
    window[j] = tap >= 0 && j < Most - 1 ? input(begin - past + tap) : 0.0f;
  }
  // The oldest first: a state that goes on in place moves towards its beginning. Nobody else reads this column of it.
  if (begin == 0) {
    float* const to = s.to + a.state_at + size_t(column);
    for (int j = 0; j < past; ++j) __stcg(to + size_t(j) * cols, input(s.rows - past + j));
  }
  for (int first = begin; first < end; first += kConvAhead) {
    float ahead[kConvAhead];
#pragma unroll
    for (int i = 0; i < kConvAhead; ++i) ahead[i] = first + i < end ? __ldcg(x + size_t(first + i) * cols) : 0.0f;
#pragma unroll
    for (int i = 0; i < kConvAhead; ++i) {
      if (first + i >= end) break;
      window[Most - 1] = ahead[i];
      float sum = 0;
#pragma unroll
      for (int j = 0; j < Most; ++j) sum = fmaf(w[j], window[j], sum);
      __stcg(y + size_t(first + i) * cols, a.silu ? sum / (1 + expf(-sum)) : sum);
#pragma unroll
      for (int j = 0; j + 1 < Most; ++j) window[j] = j >= Most - a.taps ? window[j + 1] : 0.0f;
    }
  }
}

/// What the kernel before has made of all rows.
struct DeltaRows {
  float* qk;      // [key_heads][rows][q, k][pad]: of length one, q by 1/sqrt(key_dim) shorter
  float* meet;    // [key_heads][rows] q·k
  float2* gates;  // [value_heads][rows] decay and beta
};
__host__ __device__ inline DeltaRows rows_of(const DeltaArgs& a, int rows, int pad) {
  const size_t of_keys = size_t(a.key_heads) * size_t(rows);
  DeltaRows at;
  at.qk = a.workspace;
  at.gates = reinterpret_cast<float2*>(at.qk + of_keys * 2 * size_t(pad));
  at.meet = reinterpret_cast<float*>(at.gates + size_t(a.value_heads) * size_t(rows));
  return at;
}

__device__ inline double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }

/// A block for a row, a warp for a key head.
__global__ void __launch_bounds__(kThreads) delta_rows_kernel(DeltaArgs a, int rows, int pad) {
  launch_dependents();
  const int row = int(blockIdx.x), lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int keys = a.key_heads * a.key_dim;
  const DeltaRows to = rows_of(a, rows, pad);
  wait_for_inputs();
  const float* const from = a.qkv + size_t(row) * size_t(2 * keys + a.value_heads * a.value_dim);
  const float shorter = rsqrtf(float(a.key_dim));
  for (int h = warp; h < a.key_heads; h += kThreads / kWarp) {
    constexpr int kEach = kMostKeyDim / kWarp;
    float q[kEach], k[kEach], q_squares = 0, k_squares = 0, meet = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = lane + j * kWarp;
      q[j] = i < a.key_dim ? __ldcg(from + h * a.key_dim + i) : 0.0f;
      k[j] = i < a.key_dim ? __ldcg(from + keys + h * a.key_dim + i) : 0.0f;
      q_squares = fmaf(q[j], q[j], q_squares);
      k_squares = fmaf(k[j], k[j], k_squares);
    }
    const float q_scale = shorter / sqrtf(warp_sum(q_squares) + kDeltaEps),
                k_scale = 1 / sqrtf(warp_sum(k_squares) + kDeltaEps);
    const size_t of_row = size_t(h) * size_t(rows) + size_t(row);
    float* const at = to.qk + of_row * 2 * size_t(pad);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = lane + j * kWarp;
      if (i >= pad) break;
      q[j] *= q_scale, k[j] *= k_scale;
      __stcg(at + i, q[j]);
      __stcg(at + pad + i, k[j]);
      meet = fmaf(q[j], k[j], meet);
    }
    meet = warp_sum(meet);
    if (lane == 0) __stcg(to.meet + of_row, meet);
  }
  for (int h = int(threadIdx.x); h < a.value_heads; h += kThreads) {
    const size_t at = size_t(row) * size_t(a.value_heads) + size_t(h);
    const double open = double(__ldcg(a.a + at)) + double(__ldg(a.dt_bias + h));
    const float decay = float(exp(-exp(double(__ldg(a.a_log + h))) * softplus(open)));
    const float beta = float(1 / (1 + exp(-double(__ldcg(a.b + at)))));
    __stcg(to.gates + size_t(h) * size_t(rows) + size_t(row), float2{decay, beta});
  }
}

/// A lane's part of a row: four keys of every 32.
template <int Fours>
struct DeltaRow {
  float4 k[Fours], q[Fours];
  float2 gates;
  float v, meet;
};

__device__ inline float dot(float4 a, float4 b) { return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x))); }

/// Of the eight lanes of a column, in all of them.
__device__ inline float column_sum(float x) {
#pragma unroll
  for (int offset = kColumnLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}

/// With S before a row and learnt = beta·(v - decay·Sᵀk), the answer is decay·Sᵀq + (q·k)·learnt.
template <int Fours>
__global__ void __launch_bounds__(kThreads) delta_kernel(DeltaArgs a, BatchView batch) {
  constexpr int kPad = Fours * 4 * kColumnLanes;
  launch_dependents();
  const int lane = int(threadIdx.x) % kColumnLanes, head = int(blockIdx.y), slot = int(blockIdx.z);
  const int column = int(blockIdx.x) * kColumns + int(threadIdx.x) / kColumnLanes;
  const int key_head = head * a.key_heads / a.value_heads, values = a.value_heads * a.value_dim;
  const bool mine = column < a.value_dim;
  const size_t at = size_t(head * a.value_dim + min(column, a.value_dim - 1));  // of the column, among a row's values
  wait_for_inputs();
  if (slot >= batch.header->state_count) {
    const int row = spare_row(batch, slot);
    if (row >= 0 && mine && lane == 0) __stcg(a.y + size_t(row) * size_t(values) + at, 0.0f);
    return;
  }
  const StateView s = batch.states[slot];
  const DeltaRows rows = rows_of(a, batch.rows, kPad);
  const size_t in = size_t(2 * a.key_heads * a.key_dim + values);
  const float* const v = a.qkv + size_t(s.first) * in + size_t(2 * a.key_heads * a.key_dim) + at;
  const size_t first_key = size_t(key_head) * size_t(batch.rows) + size_t(s.first);
  const float4* const qk = reinterpret_cast<const float4*>(rows.qk + first_key * 2 * kPad) + lane;
  const float* const meet = rows.meet + first_key;
  const float2* const gates = rows.gates + size_t(head) * size_t(batch.rows) + size_t(s.first);
  const auto load = [&](int row) {
    DeltaRow<Fours> r;
#pragma unroll
    for (int j = 0; j < Fours; ++j) {
      r.q[j] = __ldcg(qk + size_t(row) * (2 * kPad / 4) + j * kColumnLanes);
      r.k[j] = __ldcg(qk + size_t(row) * (2 * kPad / 4) + kPad / 4 + j * kColumnLanes);
    }
    r.gates = __ldcg(gates + row);
    r.meet = __ldcg(meet + row);
    r.v = __ldcg(v + size_t(row) * in);
    return r;
  };
  DeltaRow<Fours> next = load(0);
  float4 state[Fours];
  const size_t kept = a.state_at + at * kPad;
#pragma unroll
  for (int j = 0; j < Fours; ++j) {
    state[j] = {0, 0, 0, 0};
    if (s.from != nullptr) state[j] = __ldcg(reinterpret_cast<const float4*>(s.from + kept) + lane + j * kColumnLanes);
  }
  float* const y = a.y + size_t(s.first) * size_t(values) + at;
#pragma unroll 2
  for (int row = 0; row < s.rows; ++row) {
    const DeltaRow<Fours> now = next;
    if (row + 1 < s.rows) next = load(row + 1);
    float known = 0, asked = 0;
#pragma unroll
    for (int j = 0; j < Fours; ++j) {
      known += dot(now.k[j], state[j]);
      asked += dot(now.q[j], state[j]);
    }
    known = column_sum(known);
    asked = column_sum(asked);
    const float decay = now.gates.x, learnt = now.gates.y * fmaf(-decay, known, now.v);
    if (mine && lane == 0) __stcg(y + size_t(row) * size_t(values), fmaf(now.meet, learnt, decay * asked));
#pragma unroll
    for (int j = 0; j < Fours; ++j) {
      state[j].x = fmaf(now.k[j].x, learnt, decay * state[j].x);
      state[j].y = fmaf(now.k[j].y, learnt, decay * state[j].y);
      state[j].z = fmaf(now.k[j].z, learnt, decay * state[j].z);
      state[j].w = fmaf(now.k[j].w, learnt, decay * state[j].w);
    }
  }
  if (!mine) return;
#pragma unroll
  for (int j = 0; j < Fours; ++j) __stcg(reinterpret_cast<float4*>(s.to + kept) + lane + j * kColumnLanes, state[j]);
}

unsigned blocks_for(int count, int each) { return unsigned((count + each - 1) / each); }

}  // namespace

void causal_conv(const ConvArgs& args, const BatchView& batch, cudaStream_t stream) {
  const dim3 grid{blocks_for(args.cols, kThreads), unsigned(batch.state_slots),
                  blocks_for(batch.longest_segment, kConvRows)};
  if (args.taps <= 4)
    launch_overlapping("causal_conv", conv_kernel<4>, grid, {kThreads}, 0, stream, args, batch);
  else
    launch_overlapping("causal_conv", conv_kernel<kMostTaps>, grid, {kThreads}, 0, stream, args, batch);
}

size_t delta_workspace(const DeltaArgs& a, int rows) {
  const size_t keys = size_t(a.key_heads) * size_t(rows);
  return (keys * (2 * size_t(padded_keys(a.key_dim)) + 1) + 2 * size_t(a.value_heads) * size_t(rows)) * sizeof(float);
}

void delta_rule(const DeltaArgs& args, const BatchView& batch, cudaStream_t stream) {
  const int pad = padded_keys(args.key_dim);
  launch_overlapping("delta_rule", delta_rows_kernel, {unsigned(batch.rows)}, {kThreads}, 0, stream, args, batch.rows,
                     pad);
  const dim3 grid{blocks_for(args.value_dim, kColumns), unsigned(args.value_heads), unsigned(batch.state_slots)};
  const auto start = [&](auto* kernel) {
    launch_overlapping("delta_rule", kernel, grid, {kThreads}, 0, stream, args, batch);
  };
  switch (pad) {
    case 32: return start(delta_kernel<1>);
    case 64: return start(delta_kernel<2>);
    case 128: return start(delta_kernel<4>);
    default: return start(delta_kernel<8>);
  }
}

}  // namespace bumblebee::cuda
