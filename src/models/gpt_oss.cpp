// gpt-oss: windows on every second layer, a sink beside the scores of each head, biases everywhere, and experts with a
// clamped activation in place of the MLP.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/families.h"

namespace bumblebee::models {
namespace {

/// Constants of the activation: a config may say them, but not otherwise.
void require_number(const Json& config, const char* key, std::string_view where, float expected) {
  if (const float value = float(number_or(config, key, where, double(expected))); value != expected)
    throw Error(ErrorCode::unsupported, where, cat("'", key, "': expected ", expected, ", got ", value));
}

/// Without any word on the rotation, transformers' configuration has this one; mlx-lm's has none.
Json with_rotation(const Json& config) {
  Json whole = config;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (whole.contains(key) && whole[key].is_object() && !whole[key].empty()) return whole;
  }
  whole["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 32.0},    {"beta_fast", 32.0},
                           {"beta_slow", 1.0},    {"truncate", false}, {"original_max_position_embeddings", 4096}};
  return whole;
}

}  // namespace

DecoderSpec read_gpt_oss(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(with_rotation(config), where,
                                 {.eps = 1e-5, .theta = 150000, .context = 131072, .implemented = kExpertCounts});
  // Released files say the limit; transformers reads both.
  require_number(config, "swiglu_limit", where, kClampLimit);
  require_number(config, "swiglu_alpha", where, kClampSlope);
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, true);
  spec.sinks = true;
  const int window = int(int_or(config, "sliding_window", where, 1, int64_t{1} << 30, 128));
  if (!read_layer_windows(config, where, window, spec)) {
    for (size_t i = 0; i < spec.windows.size(); i += 2) spec.windows[i] = window;
  }
  read_expert_counts(config, where, {"num_local_experts", "num_experts"}, 128, 4, spec);
  spec.moe.layers.assign(size_t(spec.dims.layers), true);
  spec.moe.d_ff = spec.dims.d_ff;
  spec.moe.router_name = "router";
  spec.moe.stack = "experts";
  spec.moe.bias = true;
  spec.moe.activation = Activation::clamped_silu;
  return spec;
}

}  // namespace bumblebee::models
