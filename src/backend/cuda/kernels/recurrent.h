// What recurrent layers compute: the causal convolution and the gated delta rule, over the rows of each sequence of the
// batch, from the state that it names into the one that it names. A sequence's rows go through one kernel, however many
// they are, in order: a row has the same bits wherever a prompt was cut.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backend/cuda/kernels/views.h"

namespace bumblebee::cuda {

/// Of a convolution: the row itself and those before it.
inline constexpr int kMostTaps = 16;
/// Of a head whose matrix is kept.
inline constexpr int kMostKeyDim = 256;
/// Columns of a head's matrix are kept one after the other, each with so many keys and zeros at its end.
constexpr int padded_keys(int key_dim) {
  return key_dim <= 32 ? 32 : key_dim <= 64 ? 64 : key_dim <= 128 ? 128 : kMostKeyDim;
}

struct ConvArgs {
  const float* x = nullptr;  // [rows, cols]
  const float* w = nullptr;  // [taps, cols]
  float* y = nullptr;        // [rows, cols]
  size_t state_at = 0;       // floats from a state's beginning to the layer's rows [taps - 1, cols]
  int taps = 0, cols = 0;
  bool silu = false;
};
void causal_conv(const ConvArgs& args, const BatchView& batch, cudaStream_t stream);

struct DeltaArgs {
  const float* qkv = nullptr;      // [rows, 2·key_heads·key_dim + value_heads·value_dim]
  const float* a = nullptr;        // [rows, value_heads]
  const float* b = nullptr;        // [rows, value_heads]
  const float* a_log = nullptr;    // [value_heads]
  const float* dt_bias = nullptr;  // [value_heads]
  float* y = nullptr;              // [rows, value_heads·value_dim]
  float* workspace = nullptr;      // delta_workspace()
  size_t state_at = 0;             // floats from a state's beginning to the layer's heads
  int key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
};
size_t delta_workspace(const DeltaArgs& args, int rows);
void delta_rule(const DeltaArgs& args, const BatchView& batch, cudaStream_t stream);

}  // namespace bumblebee::cuda
