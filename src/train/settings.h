// What a run leaves with its adapter for whoever finds it later: the keys of mlx_lm.lora's adapter_config.json, and
// adapter_training.json, which says out of what it was made and how well it did.
#pragma once

#include "base/json.h"
#include "bumblebee/train.h"
#include "train/run_state.h"

namespace bumblebee::train {

/// The file's name beside an adapter.
inline constexpr const char* kRecordName = "adapter_training.json";

/// Every key that mlx_lm.lora writes, but those about the factors themselves, which lora's writer adds.
Json mlx_arguments(const TrainOptions& options, const TrainData& data);

/// Of what adapter_training.json tells, what a run knows from its beginning.
struct Origin {
  std::string program;
  const TrainOptions& options;
  const TrainData& data;
  const TrainPlan& plan;
  const Json& identity;  // every setting that the bits depend on, data, base and adapters underneath included
};
Json training_record(const Origin& origin, const RunState& state);

}  // namespace bumblebee::train
