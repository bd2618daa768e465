// Phi-3, Phi-3.5 and Phi-4-mini: matrices that share an input are one, a part of each head rotates.
#include <algorithm>

#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_phi3(const Json& config, std::string_view where) {
  constexpr const char* kOriginal = "original_max_position_embeddings";
  Json whole = config;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto scaling = config.find(key);
    if (scaling == config.end() || !scaling->is_object() || !scaling->contains("short_factor")) continue;
    if (!config.contains(kOriginal) && !scaling->contains(kOriginal)) whole[kOriginal] = 4096;  // the family's default
  }
  DecoderSpec spec = read_common(whole, where, {.eps = 1e-5, .theta = 10000, .implemented = {"partial_rotary_factor"}});
  refuse_layer_types(config, where);
  spec.fused = true;
  const int window = int(int_or(config, "sliding_window", where, 0, int64_t{1} << 30, 0));
  std::fill(spec.windows.begin(), spec.windows.end(), window);
  return spec;
}

}  // namespace bumblebee::models
