// Where a run is: everything but the factors and moments that its continuation depends on.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "base/json.h"
#include "bumblebee/train.h"
#include "train/batch_stream.h"

namespace bumblebee::train {

struct RunState {
  int iteration = 0;  // done
  int updates = 0;
  int64_t trained_tokens = 0;
  int64_t accumulated = 0;  // scored tokens in the gradients that wait for their update
  Cursor cursor;
  // since the last report
  double window_loss = 0;
  int64_t window_tokens = 0;
  double learning_rate = 0, gradient_norm = 0;                    // of the last update
  double train_loss = 0;                                          // of the last report
  std::optional<double> first_val_loss, val_loss, best_val_loss;  // the first: before any step
  std::optional<double> first_test_loss;
  int validated = -1;  // after this iteration; -1: never yet
  int best_iteration = 0;
  int validations_without_gain = 0;
};

Json to_json(const RunState& state);
/// Throws Error(bad_config) with `where` for what is missing or out of range.
RunState read_run_state(const Json& json, std::string_view where);

/// Every option that changes the bits of a run, by name.
Json identity(const TrainOptions& options);
/// Throws Error(bad_request) naming the first option whose values differ.
void check_identity(const Json& saved, const Json& now, const std::string& where);

}  // namespace bumblebee::train
