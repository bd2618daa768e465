// Granite 3 and 4 without experts or state layers: Llama with four factors, of the embedding, of what blocks add, of
// attention's scores and of the logits. Granite 4's files have the config of a hybrid, of which this is the case
// without state layers and experts.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/families.h"
#include "models/numbers.h"

namespace bumblebee::models {

DecoderSpec read_granite(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(
      config, where,
      {.eps = 1e-6,
       .theta = 10000,
       .implemented = {"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"}});
  refuse_layer_types(config, where);
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  spec.mlp_bias = bool_or(config, "mlp_bias", where, false);
  const auto factor = [&](const char* key) { return positive_or(config, key, where, 1); };
  spec.embedding_factor = float(factor("embedding_multiplier"));
  spec.residual_factor = float(factor("residual_multiplier"));
  spec.attention_scale = float(factor("attention_multiplier"));
  spec.logits_factor = float(1 / factor("logits_scaling"));
  return spec;
}

DecoderSpec read_granitemoehybrid(const Json& config, std::string_view where) {
  Json rest = config;
  const char* const key = has_key(config, "layer_types") ? "layer_types" : "layers_block_type";
  const auto types = config.find(key);
  if (types == config.end() || !types->is_array()) {
    throw Error(ErrorCode::unsupported, where,
                "'layer_types': expected a list of attention, without one all are state layers (mamba), which are not "
                "implemented");
  }
  for (const Json& type : *types) {
    if (type != "attention" && type != "full_attention") {
      throw Error(ErrorCode::unsupported, where,
                  cat("'", key, "': expected attention, state layers are not implemented, got ", brief(type)));
    }
  }
  rest.erase(key);
  rest["intermediate_size"] = require_int(config, "shared_intermediate_size", where, 1, kMaxSize);
  DecoderSpec spec = read_granite(rest, where);
  if (types->size() != size_t(spec.dims.layers)) {
    throw Error(ErrorCode::bad_config, where,
                cat("'", key, "': expected a list of ", spec.dims.layers, " names, got ", brief(*types)));
  }
  spec.shared_mlp = true;
  const std::string positions = string_or(config, "position_embedding_type", where, "nope");
  if (positions != "rope" && positions != "nope") {
    throw Error(ErrorCode::unsupported, where,
                cat("'position_embedding_type': expected rope or nope, got '", positions.substr(0, 40), "'"));
  }
  if (positions == "nope") spec.rotates.assign(size_t(spec.dims.layers), false);
  return spec;
}

}  // namespace bumblebee::models
