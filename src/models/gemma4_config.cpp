// Reads the settings of Gemma 4, with the defaults of transformers.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "models/gemma4.h"
#include "models/gemma_config.h"

namespace bumblebee::models {
namespace {

/// Layers without a window: every sixth, and the last, which this family never gives one.
std::vector<int> windows_of(GemmaConfig& config, int layers, int default_window) {
  std::vector<int> windows = config.windows(layers, 6, default_window);
  windows.back() = 0;
  return windows;
}

void read_experts(GemmaConfig& config, Gemma4Spec& spec) {
  const Json& json = config.all();
  const std::string_view where = config.where();
  if (!bool_or(json, "enable_moe_block", where, false)) return;
  spec.router.experts = int(require_int(json, "num_experts", where, 1, 65536));
  spec.router.top_k =
      int(require_int(json, "top_k_experts", where, 1, std::min<int64_t>(spec.router.experts, kMostExpertsOfRow)));
  spec.d_expert = int(require_int(json, "moe_intermediate_size", where, 1, kMaxSize));
}

/// Which layers read another's keys and values: each kind must have a layer before them that has its own.
int read_shared(const Json& json, std::string_view where, const std::vector<int>& windows) {
  const int layers = int(windows.size());
  const int from = layers - int(int_or(json, "num_kv_shared_layers", where, 0, layers - 1, 0));
  for (int i = from; i < layers; ++i) {
    bool found = false;
    for (int j = 0; j < from; ++j) found = found || (windows[size_t(j)] > 0) == (windows[size_t(i)] > 0);
    if (!found) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'num_kv_shared_layers': expected a layer before the ", from, "th of the kind of layer ", i,
                      ", got none"));
    }
  }
  return from;
}

}  // namespace

Gemma4Spec read_gemma4(const Json& json, std::string_view where) {
  GemmaConfig config(json, where);
  // The edition without towers has no per-layer embeddings unless it says so.
  const bool unified = string_or(json, "model_type", where, "").starts_with("gemma4_unified");
  for (const auto& [key, value] : {std::pair<const char*, int>{"vocab_size", 262144},
                                   {"hidden_size", 2304},
                                   {"intermediate_size", 9216},
                                   {"num_hidden_layers", 30},
                                   {"num_attention_heads", 8},
                                   {"num_key_value_heads", 4},
                                   {"head_dim", 256},
                                   {"max_position_embeddings", unified ? 262144 : 131072}})
    config.default_to(key, value);
  config.take("num_experts");
  const auto ahead = json.find("use_bidirectional_attention");  // "vision": in the part that is not here
  if (ahead != json.end() && (*ahead == "vision" || is_falsy(*ahead))) config.take("use_bidirectional_attention");
  Gemma4Spec spec;
  spec.logits_cap = config.cap("final_logit_softcapping", 0);
  const DecoderSpec common = config.common();
  spec.dims = common.dims;
  spec.eps = common.eps;
  spec.tied_known = common.tied_known;
  const nn::ModelDims& d = spec.dims;
  spec.attention_bias = bool_or(json, "attention_bias", where, false);
  spec.windows = windows_of(config, d.layers, unified ? 1024 : 512);
  spec.full_head_dim = int(int_or(json, "global_head_dim", where, 2, 4096, 512));
  spec.keys_are_values = bool_or(json, "attention_k_eq_v", where, false);
  spec.full_kv_heads = spec.keys_are_values
                           ? int(int_or(json, "num_global_key_value_heads", where, 1, d.heads, d.kv_heads))
                           : d.kv_heads;
  if (spec.full_head_dim % 2 != 0 || d.heads % spec.full_kv_heads != 0) {
    throw Error(ErrorCode::bad_config, where,
                cat("'global_head_dim' and 'num_global_key_value_heads': expected an even number and a divisor of ",
                    d.heads, " heads, got ", spec.full_head_dim, " and ", spec.full_kv_heads));
  }
  if (const int64_t width = int64_t{d.heads} * spec.full_head_dim; width > kMaxSize) {
    throw Error(ErrorCode::bad_config, where,
                cat("'num_attention_heads' x 'global_head_dim': expected at most ", kMaxSize, ", got ", width));
  }
  if (has_key(json, "per_layer_config")) {
    throw Error(ErrorCode::unsupported, where,
                "'per_layer_config': expected 'global_head_dim' and 'num_global_key_value_heads' in its place");
  }
  spec.shared_from = read_shared(json, where, spec.windows);
  spec.double_wide = bool_or(json, "use_double_wide_mlp", where, false);
  spec.full_rope = config.rope("full_attention", nullptr, nullptr, spec.full_head_dim, d.context,
                               {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", 1e6}});
  spec.window_rope = config.rope("sliding_attention", nullptr, nullptr, d.head_dim, d.context,
                                 {{"rope_type", "default"}, {"rope_theta", 1e4}});
  spec.aside = int(int_or(json, "hidden_size_per_layer_input", where, 0, 65536, unified ? 0 : 256));
  if (int64_t{spec.aside} * d.layers > kMaxSize)
    throw Error(ErrorCode::bad_config, where, cat("'hidden_size_per_layer_input': got ", spec.aside));
  spec.aside_vocab = int(int_or(json, "vocab_size_per_layer_input", where, 1, kMaxSize, 262144));
  if (spec.aside > 0 && spec.aside_vocab < d.vocab) {
    throw Error(
        ErrorCode::bad_config, where,
        cat("'vocab_size_per_layer_input': expected at least 'vocab_size' ", d.vocab, ", got ", spec.aside_vocab));
  }
  read_experts(config, spec);
  return spec;
}

}  // namespace bumblebee::models
