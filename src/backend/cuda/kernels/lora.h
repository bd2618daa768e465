// Adapters of the batch's rows: what each row's slot does to a module, looked up on the device.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

struct LoraArgs {
  const float* x = nullptr;     // [rows, in]
  float* y = nullptr;           // [rows, out], in place
  const float* bias = nullptr;  // [out] of the module, where y does not contain it yet; or null
  float* u = nullptr;           // workspace [rows, ranks]
  int rows = 0, in = 0, out = 0, site = 0;
  int ranks = 0;            // the most that a slot's terms have together, padded_rank() each
  bool logit_rows = false;  // x and y hold these only
  /// y has the terms of rows whose slot adds nothing else; lora_apply_many: whose slot is_wide() (wide_site.cuh).
  bool rest = false;
};

/// y[r] = W x for rows whose slot brings its own weight.
void lora_replace(const LoraArgs& args, const BatchView& batch, cudaStream_t stream);
/// Biases, terms and DoRA's factors; see Ops::lora for their order. Up to kLoraModules modules that share x.
inline constexpr int kLoraModules = 4;
struct LoraModules {
  LoraArgs of[kLoraModules];
};
void lora_apply(const LoraArgs* modules, int count, const BatchView& batch, cudaStream_t stream);
/// The same on tensor cores, for many rows: factors are bf16, and x and u are two bf16 numbers each.
bool has_lora_many(const LoraArgs& args);
void lora_apply_many(const LoraArgs* modules, int count, const BatchView& batch, cudaStream_t stream);
/// The same for rows of an embedding y [rows, out]; `u` and `x` are not used.
void lora_embed(const LoraArgs& args, const BatchView& batch, cudaStream_t stream);

/// Terms of experts, of one module: y [rows·top_k, out] += those of each assignment's expert.
struct LoraExpertArgs {
  const float* x = nullptr;          // [rows, in], or [rows·top_k, in] by assignments
  float* y = nullptr;                // by assignments, in place
  float* u = nullptr;                // workspace [rows·top_k, ranks]
  const int32_t* experts = nullptr;  // [rows, top_k]
  const int32_t* order = nullptr;    // the same
  int rows = 0, top_k = 0, in = 0, out = 0, site = 0;
  int ranks = 0;               // as in LoraArgs, of an expert's terms
  bool by_assignment = false;  // x is
};
void lora_experts(const LoraExpertArgs& args, const BatchView& batch, cudaStream_t stream);

/// squares[n] (or [k] by column) = Σ (W + scale·B A)² in f64. a [rank, in], b [out, rank] f32.
void weight_squares(const WeightView& w, const float* a, const float* b, int rank, float scale, bool by_column,
                    double* squares, cudaStream_t stream);

}  // namespace bumblebee::cuda
