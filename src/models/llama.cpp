// Llama 2, 3, 3.1, 3.2, 3.3 and SmolLM2: the plain decoder, with optional biases.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_llama(const Json& config, std::string_view where) {
  DecoderSpec spec =
      read_common(config, where,
                  {.eps = 1e-6,
                   .theta = 10000,
                   .sizes = DefaultSizes{
                       .d_model = 4096, .layers = 32, .heads = 32, .kv_heads = 32, .d_ff = 11008, .vocab = 32000}});
  refuse_layer_types(config, where);
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  spec.mlp_bias = bool_or(config, "mlp_bias", where, false);
  return spec;
}

}  // namespace bumblebee::models
