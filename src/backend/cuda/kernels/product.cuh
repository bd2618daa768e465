// The kernel of product.h. A warp asks for the weights, slab after slab (maps.h), into a ring in shared memory; eight
// warps multiply, each the stages of its class; a ninth adds up what they have, and writes it. A block holds all inputs
// of x, or some sections of them; in that case the blocks that share a tile add up their parts at the end.
#pragma once

#include "backend/cuda/kernels/digits.h"
#include "backend/cuda/kernels/product.h"
#include "backend/cuda/kernels/product_plan.h"
#include "backend/cuda/kernels/ptx.cuh"
#include "backend/cuda/kernels/tensor_map.h"

namespace bumblebee::cuda {

/// Warps that multiply come first, then the one that finishes, then those that copy: one where it has tensor copies to
/// start, four where every 16 bytes are a copy of their own.
inline constexpr int kWorkingThreads = 32 * (kConsumers + 1), kMostCopiers = 4;
constexpr int copiers_of(bool sm_90) { return sm_90 ? 1 : kMostCopiers; }
#if __CUDA_ARCH__ >= 900 || !defined(__CUDA_ARCH__)
inline constexpr int kCopiers = 1;
#else
inline constexpr int kCopiers = kMostCopiers;
#endif
inline constexpr int kBlockThreads = kWorkingThreads + 32 * kCopiers;  // of the target that is compiled for

/// Barrier of those that work, besides the four of the partial sums and kRoundBarrier.
inline constexpr int kWorkersBarrier = 6;

struct ProductMaps {
  TensorMap codes[kStageTerms], scales[kStageTerms], biases[kStageTerms];
};

}  // namespace bumblebee::cuda
