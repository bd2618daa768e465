// What training will need beside the loaded model, from shapes alone: the tensors that a TapePass keeps, counted.
#pragma once

#include <cstdint>

#include "bumblebee/train.h"
#include "nn/model.h"

namespace bumblebee::train {

struct TrainingShape {
  nn::ModelDims dims;
  int norms = 2;                  // of a layer's streams of d_model features, at most
  int recorded_layers = 0;        // from the first trained layer to the last
  int64_t rows = 0;               // of activations, of the largest batch
  uint64_t trained_values = 0;    // of factors
  uint64_t optimizer_values = 0;  // moments
};

/// The most norms over all features that a layer of the model has.
int norms_of_layer(const nn::Model& model);

/// Bytes at the peak, between the forward and the backward pass of the largest batch. An upper bound on the cpu device
/// but for kernels' own scratch; another device may hold buffers more tightly.
uint64_t estimate_memory(const TrainingShape& shape, const TrainOptions& options);

}  // namespace bumblebee::train
