// The one door to matrix products: y[t] = x·W[t]ᵀ + bias[t] for a few weights that share x. Who calls knows pointers
// and shapes only, so that kernels behind it can be exchanged.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/expert_plan.h"
#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

struct ProductTerm {
  WeightView weight;
  const float* bias = nullptr;  // [out], or null
  float* y = nullptr;           // [rows, out]
  bool add = false;             // to what is in y: matmul_wide alone
};

/// Up to so many rows take the few-row kernels.
inline constexpr int kFewRows = 32;
inline constexpr int kMaxTerms = 4;

/// x [rows, in] f32. Up to kMaxTerms terms with one `in`. Sums are f32 and do not depend on the number of rows.
void matmul_few(const float* x, int rows, const ProductTerm* terms, int count, cudaStream_t stream);

/// Whether matmul_many has this format.
bool has_matmul_many(const WeightView& weight);
/// Rows of x, tile by tile, each for one expert of a stack: the card knows which, the host how many at most.
struct ExpertTiles {
  const ExpertTile* tile = nullptr;  // null: all rows of x, one weight
  const int32_t* count = nullptr;
  const int32_t* row_of = nullptr;  // the row of x that is an assignment's; null: x has a row for each
  int most = 0, tile_rows = 0;      // tiles at most; rows of a tile
};
/// The same for weights that are stacks, their experts one after the other: y [assignments, out]. tile_rows is 1, 2, 4
/// or 8.
void matmul_few_experts(const float* x, const ExpertTiles& tiles, const ProductTerm* terms, int count,
                        cudaStream_t stream);

/// Bytes of workspace of matmul_many for x [rows, in].
size_t matmul_many_workspace(int rows, int in);
/// The same on tensor cores, codes as they are, sums of at most 64 products promoted to f32: on sm_90a x as f16 numbers
/// of a power of two that a row has for itself (matmul_wide.h), elsewhere, of dense weights and of f32 scales as the
/// sum of two bf16 numbers (16 bits of mantissa).
void matmul_many(const float* x, int rows, const ProductTerm* terms, int count, void* workspace, cudaStream_t stream);

}  // namespace bumblebee::cuda
