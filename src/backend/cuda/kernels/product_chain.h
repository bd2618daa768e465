// Products of one row that follow each other, as one kernel: its ring goes on filling while x of the next one comes.
// Bits are those of launch_stage() one by one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backend/cuda/kernels/product_stage.h"

namespace bumblebee::cuda {

/// The past that attention behind a chain reads, which it brings to L2 once all of its weights are on their way: of the
/// batch's first row, `pieces` of `piece` bytes, one after the other, of each page from `at` on. None: no pieces.
struct PastAhead {
  const uint8_t* const* pages = nullptr;  // and below: as BatchView has them
  const int32_t *cached = nullptr, *first_page = nullptr;
  int64_t at = 0;
  int32_t page_size = 0, window = 0, pieces = 0, piece = 0;
};

/// Attention that runs beside a chain, while its blocks begin and end: that of attend_mma.cuh leaves them more
/// registers.
enum class Beside { any, attend_mma };

/// Whether a stage may be part of a chain.
bool fits_chain(const ProductStage& stage);
/// Whether stages that may, up to kMostLinks of them, are one together.
bool fit_chain(const ProductStage* stages, int count);
/// What launch_chain's blocks wait for each other by: zero before the first use, and between chains.
size_t chain_counters();
/// 1 to kMostLinks stages that fit together, in order: each may read what those before it write. Launched as
/// launch_stage() is. Its blocks wait for each other, so two chains may not run side by side on two streams, nor a
/// chain and a stage whose blocks do so. All find room: they are no more than multiprocessors, one fits on an empty
/// one, what was launched before ends by itself, and what comes after begins when all of them have begun.
cudaError_t launch_chain(const ProductStage* stages, int count, const PastAhead& ahead, void* counters,
                         cudaStream_t stream, Beside beside = Beside::any);

}  // namespace bumblebee::cuda
