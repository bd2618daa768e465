// Qwen3.5 and 3.6 with experts in every layer, beside a shared one. Their weights are always normalised, whatever
// `norm_topk_prob` says: mlx-lm reads it, transformers does not.
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen3_5_moe(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where,
                                 {.eps = 1e-6,
                                  .theta = 10000,
                                  .rotary = 0.25,
                                  .head_dim = 256,
                                  .only_experts = true,
                                  .implemented = kExpertCounts});
  read_delta(config, where, {.fused = false}, spec);
  read_expert_counts(config, where, {"num_experts", "num_local_experts"}, 256, 8, spec);
  spec.moe.layers.assign(size_t(spec.dims.layers), true);
  spec.moe.d_ff = int(int_or(config, "moe_intermediate_size", where, 1, kMaxSize, 512));
  spec.moe.shared_d_ff = int(int_or(config, "shared_expert_intermediate_size", where, 1, kMaxSize, 512));
  spec.moe.router.normalise = true;
  return spec;
}

}  // namespace bumblebee::models
