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

  /// Throws Error: `unsupported` for what changes the result and is not implemented, `bad_config` for wrong values.
  static PeftConfig read(const AdapterConfig& config);

  int64_t rank_of(std::string_view path) const;
  /// alpha/r, or alpha/√r, with the patterns applied.
  double scale_of(std::string_view path) const;
  /// Steps per byte of a path that the patterns and targets take, at most.
  size_t cost() const;
};

}  // namespace bumblebee::lora
