// Choosing tokens, as backend/sample.h defines it.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

struct ExpTable;

struct SampleArgs {
  const float* logits = nullptr;  // [rows, vocab]
  int32_t* ids = nullptr;         // [rows]
  double* logprobs = nullptr;     // [rows, 1 + tops], or null
  int32_t* top_ids = nullptr;     // [rows, tops]
  void* workspace = nullptr;      // sample_workspace(vocab)
  const ExpTable* table = nullptr;
  int rows = 0, vocab = 0, tops = 0;
};

inline constexpr int kSampleRows = 32;  // at once; more take turns with the workspace
inline constexpr int kMaxTops = 1024;

size_t sample_workspace(int rows, int vocab);
void sample(const SampleArgs& args, const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
