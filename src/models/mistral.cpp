// Mistral: the plain decoder; v0.1 sees a window of 4096 keys in every layer.
#include <algorithm>

#include "models/families.h"

namespace bumblebee::models {

DecoderSpec read_mistral(const Json& config, std::string_view where) {
  DecoderSpec spec =
      read_common(config, where,
                  {.eps = 1e-6,
                   .theta = 10000,
                   .sizes = DefaultSizes{
                       .d_model = 4096, .layers = 32, .heads = 32, .kv_heads = 8, .d_ff = 14336, .vocab = 32000}});
  refuse_layer_types(config, where);
  // Absent means transformers' default of 4096, null (or -1, in some files) no window.
  const bool absent = !has_key(config, "sliding_window");
  const int window = std::max(0, int(int_or(config, "sliding_window", where, -1, int64_t{1} << 30, absent ? 4096 : 0)));
  std::fill(spec.windows.begin(), spec.windows.end(), window);
  return spec;
}

}  // namespace bumblebee::models
