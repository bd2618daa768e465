// Which modules of a model are trained: mlx-lm's `num_layers` and `keys`.
#pragma once

#include <vector>

#include "bumblebee/train.h"
#include "nn/model.h"

namespace bumblebee::train {

/// Throws Error(unsupported) for a model that has an operation without a derivative here.
void require_trainable(const nn::Model& model);

/// Numbers of target modules (their sites), ascending; at least one. Throws Error: `bad_request` for more layers than
/// there are and for a key that names no linear of the model, `unsupported` for the embedding and the head, and for
/// DoRA of experts.
std::vector<int> select_modules(const nn::Model& model, const LoraOptions& options);

}  // namespace bumblebee::train
