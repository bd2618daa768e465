// PEFT's adapter_config.json: what of it says how an adapter computes, with everything refused by name that would make
// it compute something else. Source: peft/tuners/lora/config.py and tuners_utils.py. Internal to the reader.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/adapter_config.h"
#include "lora/targets.h"
#include "lora/tensor_set.h"

namespace bumblebee::lora {

/// Experts as transformers 5 holds them: gate's rows and then up's in one tensor, and down.
inline constexpr std::string_view kFusedGateUp = "gate_up_proj", kFusedDown = "down_proj";

struct PeftConfig {
  enum class Bias : uint8_t { none, all, lora_only };

  int64_t r = 8;
  double alpha = 8;
  bool rslora = false, dora = false, lora_bias = false, tied_embeddings = false;
  Bias bias = Bias::none;
  std::vector<std::pair<Pattern, int64_t>> rank_pattern;  // the first that matches counts
  std::vector<std::pair<Pattern, double>> alpha_pattern;
  std::vector<std::string> modules_to_save;
  std::optional<Targets> targets;
  std::vector<std::string> parameters;  // of stacks of experts, by whole paths or their ends

  /// Throws Error: `unsupported` for what changes the result and is not implemented, `bad_config` for wrong values.
  static PeftConfig read(const AdapterConfig& config);

  /// Whether `target_parameters` names this one.
  bool has_parameter(std::string_view path) const;
  int64_t rank_of(std::string_view path) const;
  /// alpha/r, or alpha/√r, with the patterns applied.
  double scale_of(std::string_view path) const;
  /// Steps per byte of a path that the patterns and targets take, at most.
  size_t cost() const;
};

}  // namespace bumblebee::lora
