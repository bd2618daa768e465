// What a trained adapter writes beside what the model writes without it, and how much of both is copied from the rows
// that were learned.
#pragma once

#include "bumblebee/adapter.h"
#include "bumblebee/train.h"

namespace bumblebee::api {

/// Fills `result.comparisons` and `result.held_out`.
void compare_adapter(const Model& model, const Tokenizer& tokenizer, const TrainData& data, const TrainOptions& options,
                     const Adapter& trained, TrainResult& result);

}  // namespace bumblebee::api
