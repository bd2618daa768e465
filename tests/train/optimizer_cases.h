// The cases of tools/goldens/training.py as options.
#pragma once

#include "base/json.h"

#include <nlohmann/json.hpp>
#include "base/mapped_file.h"
#include "bumblebee/train.h"
#include "tests/support/golden_file.h"

namespace bumblebee::train {

inline Json training_json(const std::string& name) {
  return parse_json(read_text_file(testing_support::golden_path("training/" + name), 1 << 20), name);
}

inline Json optimizer_cases() { return training_json("optimizers.json"); }

inline OptimizerKind kind_of(const std::string& name) {
  if (name == "adamw") return OptimizerKind::adamw;
  if (name == "muon") return OptimizerKind::muon;
  if (name == "sgd") return OptimizerKind::sgd;
  if (name == "adafactor") return OptimizerKind::adafactor;
  return OptimizerKind::adam;
}

inline OptimizerOptions optimizer_options(const Json& one) {
  OptimizerOptions options;
  options.kind = kind_of(one.at("kind").get<std::string>());
  for (const auto& [key, value] : one.at("settings").items()) {
    if (key == "betas") options.betas = std::pair(value[0].get<float>(), value[1].get<float>());
    if (key == "eps") options.eps = value.get<float>();
    if (key == "bias_correction") options.bias_correction = value.get<bool>();
    if (key == "weight_decay") options.weight_decay = value.get<float>();
    if (key == "momentum") options.momentum = value.get<float>();
    if (key == "dampening") options.dampening = value.get<float>();
    if (key == "nesterov") options.nesterov = value.get<bool>();
    if (key == "ns_steps") options.ns_steps = value.get<int>();
    if (key == "clip_threshold") options.clip_threshold = value.get<float>();
    if (key == "decay_rate") options.decay_rate = value.get<float>();
    if (key == "beta_1") options.beta_1 = value.get<float>();
    if (key == "scale_parameter") options.scale_parameter = value.get<bool>();
    if (key == "relative_step") options.relative_step = value.get<bool>();
    if (key == "warmup_init") options.warmup_init = value.get<bool>();
  }
  return options;
}

}  // namespace bumblebee::train
