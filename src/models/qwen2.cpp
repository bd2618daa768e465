// Qwen2 and Qwen2.5: biases on q, k and v.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen2(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000});
  spec.qkv_bias = true;
  read_qwen_windows(config, where, spec);
  return spec;
}

}  // namespace bumblebee::models
