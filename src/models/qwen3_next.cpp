// Qwen3-Next: gated delta nets whose projections are fused, gated attention every fourth layer, experts beside a shared
// one. mlx-lm ignores `layer_types`, and does not normalise the experts' weights where the config says nothing.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen3_next(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(
      config, where, {.eps = 1e-6, .theta = 10000, .rotary = 0.25, .head_dim = 256, .implemented = kExpertCounts});
  read_delta(config, where, {.fused = true}, spec);
  read_expert_counts(config, where, {"num_experts", "num_local_experts"}, 512, 10, spec);
  spec.moe.layers = read_expert_layers(config, where, spec.dims.layers);
  spec.moe.d_ff = int(int_or(config, "moe_intermediate_size", where, 1, kMaxSize, 512));
  spec.moe.shared_d_ff = int(int_or(config, "shared_expert_intermediate_size", where, 1, kMaxSize, 512));
  spec.moe.router.normalise = bool_or(config, "norm_topk_prob", where, true);
  return spec;
}

}  // namespace bumblebee::models
