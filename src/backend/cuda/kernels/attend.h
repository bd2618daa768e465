// Attention over pages of keys and values.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/rope.h"

namespace bumblebee::cuda {

/// What comes before attention of rows, each of a sequence of its own, where it is part of it: norms and rotations of q
/// and k, and their and v's way to the pages.
struct AttendRotation {
  HeadRows q, k;
  const float* v = nullptr;
  RopeArgs rope;
};

struct AttendArgs {
  KvView kv;
  const float* q = nullptr;  // [rows, heads·head_dim]
  float* out = nullptr;      // [rows, heads·kv.values()]
  int heads = 0, window = 0;
  float scale = 1;
  float soft_cap = 0;            // 0: none
  const float* sinks = nullptr;  // [heads], or null
  bool exact = false;            // no tensor cores
};

/// A row's past may be split over blocks that join their results.
struct AttendWorkspace {
  float* partials = nullptr;    // attend_partials() bytes
  uint32_t* arrived = nullptr;  // attend_counters() bytes, zero before the first use
};
/// 0 where a row's past is not split over several blocks.
size_t attend_partials(int rows, int heads, int values);
size_t attend_counters(int heads);

/// Whether rows of few take attend_mma.cuh.
bool has_attend_mma(const AttendArgs& args);
/// The same of a batch that is alone (BatchView) whose q, and what is in the pages, `rotation` (is_common()) makes, in
/// other memory than it reads; where has_attend_mma() says so.
void rotate_and_attend(const AttendArgs& args, const AttendRotation& rotation, const BatchView& batch,
                       const AttendWorkspace& workspace, cudaStream_t stream);
/// out = softmax(scale·q·k)·v, with what AttentionParams says; the batch's rows are in the pages.
void attend(const AttendArgs& args, const BatchView& batch, const AttendWorkspace& workspace, cudaStream_t stream);

}  // namespace bumblebee::cuda
