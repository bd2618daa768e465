// Qwen3.5 and 3.6, dense: gated delta nets, and gated attention every fourth layer. Positions of images aside, their
// interleaved rotation is the plain one.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen3_5(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000, .rotary = 0.25, .head_dim = 256});
  read_delta(config, where, {.fused = false}, spec);
  return spec;
}

}  // namespace bumblebee::models
