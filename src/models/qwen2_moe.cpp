// Qwen2 with experts in place of the MLP, and one more that every row passes, behind a gate of its own. mlx-lm ignores
// `norm_topk_prob` and the layers without experts; what is read here is what transformers computes.
#include "base/error.h"
#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen2_moe(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000, .implemented = kExpertCounts});
  spec.qkv_bias = bool_or(config, "qkv_bias", where, true);
  // Which layers have windows, when nothing names them, depends on the version of transformers.
  if (bool_or(config, "use_sliding_window", where, false) && !has_key(config, "layer_types"))
    throw Error(ErrorCode::unsupported, where, "'use_sliding_window': expected 'layer_types' beside it, got none");
  read_qwen_windows(config, where, spec);
  read_expert_counts(config, where, {"num_experts", "num_local_experts"}, 60, 4, spec);
  spec.moe.layers = read_expert_layers(config, where, spec.dims.layers);
  spec.moe.d_ff = int(int_or(config, "moe_intermediate_size", where, 1, kMaxSize, 1408));
  spec.moe.shared_d_ff = int(int_or(config, "shared_expert_intermediate_size", where, 1, kMaxSize, 5632));
  spec.moe.router.normalise = bool_or(config, "norm_topk_prob", where, false);
  return spec;
}

}  // namespace bumblebee::models
