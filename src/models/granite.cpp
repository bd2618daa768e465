// Granite 3 and 4 without experts or state layers: Llama with four factors, of the embedding, of what blocks add, of
// attention's scores and of the logits.
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

}  // namespace bumblebee::models
