// What the configs of all decoder families share: sizes, norms, rope, and the refusal of settings that nobody here
// implements.
#pragma once

#include <string_view>

#include "base/json.h"
#include "models/decoder.h"

namespace bumblebee::models {

struct FamilyDefaults {
  double eps = 1e-6;
  double theta = 10000;
};

/// Reads sizes, eps, tie, activation and rope; windows are all 0. Throws as read_spec().
DecoderSpec read_common(const Json& config, std::string_view where, const FamilyDefaults& defaults);

/// Sets the windows of Qwen2 and Qwen3: `layer_types` when given, else layers from `max_window_layers` on, when
/// `use_sliding_window`.
void read_qwen_windows(const Json& config, std::string_view where, DecoderSpec& spec);

/// Throws Error(unsupported) when `layer_types` asks for anything but full attention.
void refuse_layer_types(const Json& config, std::string_view where);

}  // namespace bumblebee::models
