// Mixtral: Mistral with experts in place of the MLP, two of eight, their weights normalised.
#include <algorithm>

#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_mixtral(const Json& config, std::string_view where) {
  DecoderSpec spec = read_common(config, where, {.eps = 1e-5, .theta = 1e6, .implemented = kExpertCounts});
  refuse_layer_types(config, where);
  const int window = std::max(0, int(int_or(config, "sliding_window", where, -1, int64_t{1} << 30, 0)));
  std::fill(spec.windows.begin(), spec.windows.end(), window);
  read_expert_counts(config, where, {"num_local_experts", "num_experts"}, 8, 2, spec);
  spec.moe.layers.assign(size_t(spec.dims.layers), true);
  spec.moe.d_ff = spec.dims.d_ff;
  spec.moe.block = "block_sparse_moe";
  spec.moe.gate = "w1";
  spec.moe.up = "w3";
  spec.moe.down = "w2";
  return spec;
}

}  // namespace bumblebee::models
