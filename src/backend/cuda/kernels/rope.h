// Heads of queries, keys and values on their way to attention: norm, rotation, and the pages.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// RopeParams as plain numbers.
struct RopeArgs {
  const float* inv_freq = nullptr;  // [half]
  int half = 0;
  float attention_factor = 1;
  int first = 0;
  bool interleaved = false;
  const float* long_inv_freq = nullptr;  // [half], or null
  float query_growth = 0;
  int query_span = 1;
};

/// Heads of one kind: x [rows, heads·head_dim], and where they go, which may be x. None: x is null.
struct HeadRows {
  const float* x = nullptr;
  float* y = nullptr;
  int heads = 0;
  const float* norm = nullptr;  // [normed], or null
  float eps = 0;
  int normed = 0;  // of a head's first features
};

/// Whether registers hold it: what most models have.
bool is_common(const HeadRows& q, const HeadRows& k, int head_dim, const RopeArgs& rope);
/// Per head: norm, then rotation at the batch's positions.
void norm_rope(const HeadRows& q, const HeadRows& k, int head_dim, const RopeArgs& rope, const BatchView& batch,
               cudaStream_t stream);
/// Writes the rows' keys and values (null: they lie within keys) to their pages, rounded to the cache's type.
void append_kv(const KvView& kv, const float* k, const float* v, const BatchView& batch, cudaStream_t stream);
/// Both, in one kernel, with the same bits.
void norm_rope_append(const HeadRows& q, const HeadRows& k, const float* v, const RopeArgs& rope, const KvView& kv,
                      const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
