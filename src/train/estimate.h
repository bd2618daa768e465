// What training will need beside the loaded model, from shapes alone: the tensors that a TapePass keeps, counted.
#pragma once

#include <cstdint>
#include <vector>

#include "bumblebee/train.h"
#include "nn/model.h"

namespace bumblebee::train {

/// Columns of a layer's tensors.
struct LayerShape {
  int q = 0, kv = 0;        // of queries and of keys; kv 0: the layer reads another one's
  int wide = 0;             // of the inner half of the MLP
  int aside = 0;            // of what a layer takes from beside the residual stream
  bool value_norm = false;  // values are kept before and after a norm of theirs
};

struct TrainingShape {
  nn::ModelDims dims;
  std::vector<LayerShape> layers = {};  // of all; empty: as dims say
  int norms = 2;                        // of a layer's streams of d_model features, at most
  int recorded_layers = 0;              // from the first trained layer to the last
  int64_t rows = 0;                     // of activations, of the largest batch
  uint64_t trained_values = 0;          // of factors
  uint64_t optimizer_values = 0;        // moments
  int longest_row = 0, threads = 0;     // what the way back of gated delta nets takes on each thread; 0: nothing
};

/// By the sizes of the model's own modules.
std::vector<LayerShape> layers_of(const nn::Model& model);

/// The most norms over all features that a layer of the model has.
int norms_of_layer(const nn::Model& model);

/// Bytes at the peak, between the forward and the backward pass of the largest batch. An upper bound on the cpu device
/// but for kernels' own scratch, of which that of gated delta nets alone is counted; another device may hold buffers
/// more tightly.
uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options);

}  // namespace bumblebee::train
