// Reads the settings of LFM2 under the names of its first files and under those that transformers writes.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "models/lfm2.h"
#include "models/numbers.h"

namespace bumblebee::models {
namespace {

constexpr const char* kAttention = "full_attention";

bool given_in(const Json& config, const char* key) { return has_key(config, key) && !config.at(key).is_null(); }

/// The width of MLPs: `block_ff_dim`, or newer `intermediate_size`, which is two thirds of itself, rounded up, unless
/// `block_auto_adjust_ff_dim` is off. Each step towards zero, as Python's int() goes.
int64_t width_of_mlp(const Json& config, std::string_view where) {
  const char* const key = given_in(config, "block_ff_dim") ? "block_ff_dim" : "intermediate_size";
  int64_t width = require_int(config, key, where, 1, kMaxSize);
  if (!bool_or(config, "block_auto_adjust_ff_dim", where, true)) return width;
  width = int64_t(double(2 * width) / 3);
  const int64_t multiple = int_or(config, "block_multiple_of", where, 1, kMaxSize, 256);
  if (has_key(config, "block_ffn_dim_multiplier") && !given_in(config, "block_ffn_dim_multiplier")) {
    throw Error(ErrorCode::unsupported, where,
                "'block_ffn_dim_multiplier': expected a number: without one the width depends on the program");
  }
  const double factor = number_or(config, "block_ffn_dim_multiplier", where, 1);
  if (const double wide = factor * double(width); !(wide >= 1 && wide < double(kMaxSize))) {
    throw Error(ErrorCode::bad_config, where,
                cat("'", key, "' x 2/3 x 'block_ffn_dim_multiplier': expected from 1 to ", kMaxSize, ", got ", wide));
  }
  width = int64_t(factor * double(width));
  return (width + multiple - 1) / multiple * multiple;
}

/// Of each layer whether it is attention: `layer_types` and `full_attn_idxs`, which may not disagree; all, where
/// neither is there.
std::vector<bool> attention_layers(const Json& config, std::string_view where, int layers) {
  std::vector<bool> named, numbered(size_t(layers), false);
  if (given_in(config, "layer_types")) {
    const Json& types = config.at("layer_types");
    if (!types.is_array() || types.size() != size_t(layers)) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'layer_types': expected a list of ", layers, " names, got ", brief(types)));
    }
    for (const Json& type : types) {
      if (type != kAttention && type != "conv") {
        throw Error(ErrorCode::unsupported, where,
                    cat("'layer_types': expected conv or full_attention, got ", brief(type)));
      }
      named.push_back(type == kAttention);
    }
  }
  if (!given_in(config, "full_attn_idxs")) return named.empty() ? std::vector<bool>(size_t(layers), true) : named;
  const Json& numbers = config.at("full_attn_idxs");
  if (!numbers.is_array())
    throw Error(ErrorCode::bad_config, where, cat("'full_attn_idxs': expected a list, got ", brief(numbers)));
  for (const Json& number : numbers) {
    if (!number.is_number_integer() || number < 0 || number >= layers) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'full_attn_idxs': expected numbers below ", layers, ", got ", brief(number)));
    }
    numbered[number.get<size_t>()] = true;
  }
  if (!named.empty() && named != numbered)
    throw Error(ErrorCode::bad_config, where, "'layer_types' and 'full_attn_idxs' disagree");
  return numbered;
}

/// `width`: of MLPs.
Lfm2Spec read(const Json& config, std::string_view where, int64_t width, const FamilyDefaults& defaults) {
  Json rest = config;  // under the names that other decoders use
  rest["intermediate_size"] = width;
  rest["rms_norm_eps"] = number_or(config, "norm_eps", where, 1e-5);
  rest["tie_word_embeddings"] =
      bool_or(config, "tie_embedding", where, bool_or(config, "tie_word_embeddings", where, true));
  Lfm2Spec spec{read_common(rest, where, defaults)};
  nn::ModelDims& d = spec.decoder.dims;
  if (bool_or(config, "conv_bias", where, false))
    throw Error(ErrorCode::unsupported, where,
                "'conv_bias': expected false, biases of convolutions are not implemented");
  if (const int64_t all = int_or(config, "block_dim", where, 1, kMaxSize, d.d_model); all != d.d_model) {
    throw Error(ErrorCode::bad_config, where,
                cat("'block_dim' and 'hidden_size' disagree: got ", all, " and ", d.d_model));
  }
  spec.kernel = int(int_or(config, "conv_L_cache", where, 2, 16, 3));
  KvGroup attention{.kv_heads = d.kv_heads, .head_dim = d.head_dim};
  KvGroup states{.kind = KvGroup::Kind::state, .state = {.conv_rows = spec.kernel - 1, .conv_cols = d.d_model}};
  for (const bool full : attention_layers(config, where, d.layers))
    d.kv_places.push_back(full ? KvPlace{0, attention.layers++} : KvPlace{1, states.layers++});
  d.kv_groups = {attention, states};
  return spec;
}

}  // namespace

Lfm2Spec read_lfm2(const Json& config, std::string_view where) {
  return read(config, where, width_of_mlp(config, where), {.theta = 1e6, .context = 128000});
}

Lfm2Spec read_lfm2_moe(const Json& config, std::string_view where) {
  Lfm2Spec spec = read(config, where, require_int(config, "intermediate_size", where, 1, kMaxSize),
                       {.theta = 1e6, .context = 128000, .implemented = kExpertCounts});
  read_expert_counts(config, where, {"num_experts"}, 32, 4, spec.decoder);
  MoeSpec& moe = spec.decoder.moe;
  const int64_t dense = int_or(config, "num_dense_layers", where, 0, 65536, 2);
  for (int i = 0; i < spec.decoder.dims.layers; ++i) moe.layers.push_back(i >= dense);
  moe.d_ff = int(require_int(config, "moe_intermediate_size", where, 1, kMaxSize));
  moe.router.score = RouterParams::Score::sigmoid;
  moe.router.normalise = bool_or(config, "norm_topk_prob", where, true);
  moe.router.scale = float(positive_or(config, "routed_scaling_factor", where, 1));
  moe.router.beside_sum = 1e-6;
  moe.block = "feed_forward";
  moe.gate = "w1";
  moe.up = "w3";
  moe.down = "w2";
  if (bool_or(config, "use_expert_bias", where, true)) moe.correction = "expert_bias";
  return spec;
}

}  // namespace bumblebee::models
