// Seed-OSS: Llama with biases of its own choice.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_seed_oss(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000, .context = 524288, .head_dim = 128});
  refuse_layer_types(config, where);
  spec.qkv_bias = bool_or(config, "attention_bias", where, true);
  spec.o_bias = bool_or(config, "attention_out_bias", where, false);
  spec.mlp_bias = bool_or(config, "mlp_bias", where, false);
  return spec;
}

}  // namespace bumblebee::models
