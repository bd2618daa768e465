// Operations that work on each row by itself. All tensors are f32, dense, row-major, on the device; everything is
// enqueued on the stream and returns at once. Errors of a launch throw Error(device).
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// Rows of the table for the batch's tokens -> y [rows, in]; a row of NaN for a token that is none.
void embed(const WeightView& table, const BatchView& batch, float* y, cudaStream_t stream);
/// y = rms_norm of the first `normed` of each run of `width` features (0: of all), and the others as they are; w null:
/// no weight. `site` >= 0: the weight of the row's slot where it has one, where `logit_rows` says that x holds only
/// these.
struct NormArgs {
  const float* x = nullptr;
  const float* w = nullptr;
  float* y = nullptr;
  int rows = 0, cols = 0, width = 0;
  float eps = 0;
  int site = -1;
  bool logit_rows = false;
  int normed = 0;
};
void rms_norm(const NormArgs& args, const BatchView& batch, cudaStream_t stream);
/// x += delta [rows, cols], then norm.y = rms_norm(x); y null: the sum only. `norm.x` is x, and its width the whole
/// row.
void add_rms_norm(float* x, const float* delta, const NormArgs& norm, const BatchView& batch, cudaStream_t stream);
/// What a row's experts made: Σ weights[r][j]·y[order[r][j]] over j in ascending order.
struct ExpertSum {
  const float* y = nullptr;        // [rows·top_k, cols]
  const int32_t* order = nullptr;  // [rows, top_k]
  const float* weights = nullptr;  // [rows, top_k]
  int top_k = 0;
};
/// to [rows, cols] = that sum.
void sum_experts(const ExpertSum& sum, int rows, int cols, float* to, cudaStream_t stream);
/// add_rms_norm with that sum as delta, which is never written, and the bits of both one after the other. Columns are
/// whole octets.
void add_experts(float* x, const ExpertSum& sum, const NormArgs& norm, const BatchView& batch, cudaStream_t stream);
/// add_rms_norm with rms_norm(delta) in place of delta, which is never written, and the bits of both one after the
/// other. Columns are whole octets.
void add_normed(float* x, const NormArgs& delta, const NormArgs& norm, const BatchView& batch, cudaStream_t stream);
/// x = cap·tanh(x/cap), `count` elements.
void soft_cap(float* x, size_t count, float cap, cudaStream_t stream);
/// What a batch says of its logit rows, `rows` of them, in the order of RowArray.
enum RowArray : int32_t { kRowToken, kRowPosition, kRowSlot, kRowCached, kRowFirstPage, kRowStretched, kRowLogit };
inline constexpr int kRowArrays = kRowLogit + 1;
/// to [kRowArrays, logit rows]; every row of it is its own logit row. Who reads `to` before it waits for its inputs, as
/// kernels read batches, must not follow at once.
void keep_logit_rows(const BatchView& batch, int32_t* to, cudaStream_t stream);
/// y[i] = x[logit_rows[i]].
void gather_rows(const float* x, float* y, int cols, const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
