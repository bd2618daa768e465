// Products of steps of some dozens of rows on Hopper's tensor cores (matmul_batch.cuh), x and W as those of many rows
// have them (matmul_wide.h). Such steps are a kind of their own: inputs are cut, and sums of the parts added.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/matmul_wide.h"

namespace bumblebee::cuda {

/// Up to so many rows.
inline constexpr int kBatchRows = kBlockRows;

/// Whether this card has the kernel for a weight: 4 bits in groups of 64, by tensor copies.
bool has_matmul_batch(const WeightView& weight);
/// Into how many parts its inputs are cut: of the weight and the card alone, so that the order of a row's sums is too,
/// whatever else a call multiplies. Terms of a launch have the same.
int batch_splits(const WeightView& weight);
/// How a launch is cut.
struct BatchPlan {
  int groups = 0;                     // warpgroups of a block, each 64 outputs
  int splits = 0;                     // of the inputs
  size_t partials = 0, counters = 0;  // bytes of workspace; counters are zero before the first launch, and left so
};
BatchPlan plan_batch(const ProductTerm* terms, int count);
/// `paired`: of two terms of one size, y of the first becomes silu(first)·second, and the second's is not written.
void matmul_batch(const BatchPlan& plan, const WideInput& x, const ProductTerm* terms, int count, void* partials,
                  void* counters, cudaStream_t stream, const WideLora& lora = {}, bool paired = false);

/// Adapters, as for products of many rows: u of a stage of slots, whose octets of ranks are so many, lies in a pair of
/// tiles; a slot has WideLora::steps of them.
inline constexpr int kBatchOctets = 8, kPairBytes = 2 * kTileBytes;
size_t batch_lora_bytes(int rows, int modules);
/// u = A x for the modules at these sites, in `workspace`, which has batch_lora_bytes(), of rows that have up to
/// `slots` slots.
WideLora shrink_batch(const WideInput& x, const int* sites, int modules, int ranks, int slots, bool logit_rows,
                      void* workspace, const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
