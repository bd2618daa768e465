// Qwen3, dense: norms over head_dim of q and k before the rotation; head_dim is its own setting.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen3(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000});
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  spec.qk_norm = true;
  read_qwen_windows(config, where, spec);
  return spec;
}

}  // namespace bumblebee::models
