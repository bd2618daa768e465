// Qwen3 with experts in place of the MLP: the best few of a softmax over all, their weights normalised where the config
// says so. Windows are those of all layers.
#include <algorithm>

#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_qwen3_moe(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-6, .theta = 10000, .implemented = kExpertCounts});
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  spec.qk_norm = true;
  refuse_layer_types(config, where);
  if (bool_or(config, "use_sliding_window", where, false)) {
    const int window = std::max(0, int(int_or(config, "sliding_window", where, -1, int64_t{1} << 30, 4096)));
    std::fill(spec.windows.begin(), spec.windows.end(), window);
  }
  read_expert_counts(config, where, {"num_experts", "num_local_experts"}, 128, 8, spec);
  spec.moe.layers = read_expert_layers(config, where, spec.dims.layers);
  spec.moe.d_ff = int(int_or(config, "moe_intermediate_size", where, 1, kMaxSize, 768));
  spec.moe.router.normalise = bool_or(config, "norm_topk_prob", where, false);
  return spec;
}

}  // namespace bumblebee::models
