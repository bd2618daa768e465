// SmolLM3: Llama whose every fourth layer does not rotate, so that only the causal mask tells positions there.
#include <nlohmann/json.hpp>

#include "models/families.h"

namespace bumblebee::models {
namespace {

/// Layers that rotate: `no_rope_layers` has a 1 for each (its name says the opposite), else all but every
/// `no_rope_layer_interval`-th.
std::vector<bool> read_rotating_layers(const Json& config, std::string_view where, int layers) {
  std::vector<bool> rotates;
  const auto list = config.find("no_rope_layers");
  if (list == config.end() || list->is_null()) {
    const int64_t interval = int_or(config, "no_rope_layer_interval", where, 1, 65536, 4);
    for (int i = 0; i < layers; ++i) rotates.push_back((i + 1) % interval != 0);
    return rotates;
  }
  if (!list->is_array() || list->size() != size_t(layers)) {
    throw Error(ErrorCode::bad_config, where,
                cat("'no_rope_layers': expected a list of ", layers, " numbers, got ", brief(*list)));
  }
  for (const Json& layer : *list) {
    if (layer != 0 && layer != 1)
      throw Error(ErrorCode::bad_config, where, cat("'no_rope_layers': expected 0 or 1, got ", brief(layer)));
    rotates.push_back(layer == 1);
  }
  return rotates;
}

}  // namespace

DecoderSpec read_smollm3(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 2e6, .implemented = {"no_rope_layers"}});
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  spec.mlp_bias = bool_or(config, "mlp_bias", where, false);
  spec.rotates = read_rotating_layers(config, where, spec.dims.layers);
  const int window = int(int_or(config, "sliding_window", where, 1, int64_t{1} << 30, 0));
  if (!bool_or(config, "use_sliding_window", where, false) || window == 0) {
    // Without a width, layers called sliding see everything: transformers warns and goes on.
    spec.windows.assign(size_t(spec.dims.layers), 0);
    return spec;
  }
  if (read_layer_windows(config, where, window, spec)) return spec;
  for (int i = 0; i < spec.dims.layers; ++i)
    if (!spec.rotates[size_t(i)]) spec.windows[size_t(i)] = window;
  return spec;
}

}  // namespace bumblebee::models
