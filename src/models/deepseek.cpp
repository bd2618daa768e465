// DeepSeek-V2 and V3, with what has their shape (Kimi-K2), and GLM-4.7-Flash. They differ in how a router chooses.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "models/latent.h"
#include "models/numbers.h"
#include "models/rope.h"

namespace bumblebee::models {
namespace {

/// What the families' own code takes where a config is silent.
struct Defaults {
  int q_rank, nope_dim, value_dim;
  int experts, shared, dense_layers, d_expert;
  double eps = 1e-6, router_scale = 1;
  int further_layers = 0;
};

bool is_given(const Json& config, const char* key) { return config.contains(key) && !config[key].is_null(); }

/// A name that may only have one value.
void expect_name(const Json& config, std::string_view where, const char* key, const std::string& wanted) {
  if (const std::string name = string_or(config, key, where, wanted); name != wanted)
    throw Error(ErrorCode::unsupported, where,
                cat("'", key, "': expected ", wanted, " for this family, got '", name.substr(0, 40), "'"));
}

/// Which layers have experts: `mlp_layer_types`, else every `moe_layer_freq`-th from `first_k_dense_replace` on.
std::vector<bool> read_sparse_layers(const Json& config, std::string_view where, int layers, int dense_layers) {
  const int64_t first = int_or(config, "first_k_dense_replace", where, 0, 65536, dense_layers),
                step = int_or(config, "moe_layer_freq", where, 1, 65536, 1);
  std::vector<bool> sparse;
  for (int i = 0; i < layers; ++i) sparse.push_back(i >= first && i % step == 0);
  if (!is_given(config, "mlp_layer_types")) return sparse;
  const Json& types = config["mlp_layer_types"];
  if (!types.is_array() || types.size() != size_t(layers)) {
    throw Error(ErrorCode::bad_config, where,
                cat("'mlp_layer_types': expected a list of ", layers, " names, got ", brief(types)));
  }
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] != "sparse" && types[i] != "dense")
      throw Error(ErrorCode::unsupported, where,
                  cat("'mlp_layer_types': expected sparse or dense, got ", brief(types[i])));
    if (is_given(config, "first_k_dense_replace") && sparse[i] != (types[i] == "sparse")) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'mlp_layer_types' and 'first_k_dense_replace' disagree: got ", brief(types[i]), " and ", first,
                      " of layer ", i));
    }
    sparse[i] = types[i] == "sparse";
  }
  return sparse;
}

void read_experts(const Json& config, std::string_view where, const Defaults& defaults, LatentSpec& spec) {
  constexpr int kMostExperts = 65536, kMostOfRow = 1024;  // a step's rows times these fit an int
  const bool none = config.contains("n_routed_experts") && config["n_routed_experts"].is_null();
  if (none) {
    spec.sparse.assign(size_t(spec.dims.layers), false);
    return;
  }
  spec.sparse = read_sparse_layers(config, where, spec.dims.layers, defaults.dense_layers);
  RouterParams& router = spec.router;
  router.experts = int(int_or(config, "n_routed_experts", where, 1, kMostExperts, defaults.experts));
  router.top_k = int(require_int(config, "num_experts_per_tok", where, 1, kMostOfRow));
  router.scale = float(positive_or(config, "routed_scaling_factor", where, defaults.router_scale));
  spec.d_expert = int(int_or(config, "moe_intermediate_size", where, 1, kMaxSize, defaults.d_expert));
  const bool unshared = config.contains("n_shared_experts") && config["n_shared_experts"].is_null();
  const int64_t shared = unshared ? 0 : int_or(config, "n_shared_experts", where, 0, 65536, defaults.shared);
  if (shared * spec.d_expert > kMaxSize)
    throw Error(ErrorCode::bad_config, where, cat("shared experts: expected at most ", kMaxSize, " features of them"));
  spec.shared_d_ff = int(shared) * spec.d_expert;
}

/// Experts in groups of which only the best few count.
void read_groups(const Json& config, std::string_view where, int groups, int top_groups, RouterParams& router) {
  router.groups = int(int_or(config, "n_group", where, 1, router.experts, groups));
  if (router.experts % router.groups != 0) {
    throw Error(ErrorCode::bad_config, where,
                cat("'n_group': expected a divisor of ", router.experts, " experts, got ", router.groups));
  }
  router.top_groups = int(int_or(config, "topk_group", where, 1, router.groups, top_groups));
}

void check_choice(const RouterParams& router, std::string_view where) {
  const int open = router.experts / router.groups * router.top_groups;
  if (router.top_k > open) {
    throw Error(ErrorCode::bad_config, where,
                cat("'num_experts_per_tok': expected at most ", open, " experts, got ", router.top_k));
  }
}

LatentSpec read_latent(const Json& config, std::string_view where, const Defaults& defaults) {
  const DecoderSpec common = read_common(config, where, {.eps = defaults.eps, .theta = 10000, .latent = true});
  refuse_layer_types(config, where);
  LatentSpec spec;
  spec.dims = common.dims;
  spec.eps = common.eps;
  spec.tied_known = common.tied_known;
  spec.rope_dim = common.dims.head_dim;
  const auto size = [&](const char* key, int64_t most, int fallback) {
    return int(int_or(config, key, where, 1, most, fallback));
  };
  const bool plain_q = config.contains("q_lora_rank") && config["q_lora_rank"].is_null();
  spec.q_rank = plain_q ? 0 : size("q_lora_rank", kMaxSize, defaults.q_rank);
  spec.kv_rank = size("kv_lora_rank", 65536, 512);
  spec.nope_dim = size("qk_nope_head_dim", 4096, defaults.nope_dim);
  spec.value_dim = size("v_head_dim", 4096, defaults.value_dim);
  nn::ModelDims& d = spec.dims;
  d.kv_heads = 1;
  d.head_dim = spec.nope_dim + spec.rope_dim;
  const int64_t widest = int64_t{d.heads} * std::max({d.head_dim, spec.kv_rank + spec.rope_dim, spec.value_dim});
  if (widest > kMaxSize) throw Error(ErrorCode::bad_config, where, cat("heads x latents: expected at most ", kMaxSize));
  spec.rope = common.rope;
  spec.rope.first = spec.kv_rank;
  spec.rope.interleaved = bool_or(config, "rope_interleave", where, true);
  spec.scale = float(common.score_scale / std::sqrt(double(d.head_dim)));
  spec.attention_bias = bool_or(config, "attention_bias", where, false);
  spec.further_layers = int(int_or(config, "num_nextn_predict_layers", where, 0, 1024, defaults.further_layers));
  read_experts(config, where, defaults, spec);
  return spec;
}

/// Scores are sigmoids; a bias, which weights do not have, balances the choice.
LatentSpec read_corrected(const Json& config, std::string_view where, const Defaults& defaults, int groups,
                          int top_groups) {
  LatentSpec spec = read_latent(config, where, defaults);
  expect_name(config, where, "topk_method", "noaux_tc");
  expect_name(config, where, "scoring_func", "sigmoid");
  spec.router.score = RouterParams::Score::sigmoid;
  spec.router.beside_sum = 1e-20;
  spec.router.normalise = bool_or(config, "norm_topk_prob", where, true);
  spec.corrected = true;
  if (spec.router.experts == 0) return spec;
  read_groups(config, where, groups, top_groups, spec.router);
  check_choice(spec.router, where);
  return spec;
}

}  // namespace

LatentSpec read_deepseek_v2(const Json& config, std::string_view where) {
  LatentSpec spec = read_latent(config, where,
                                {.q_rank = 1536,
                                 .nope_dim = 128,
                                 .value_dim = 128,
                                 .experts = 64,
                                 .shared = 2,
                                 .dense_layers = 0,
                                 .d_expert = 1407});
  spec.mlp_bias = bool_or(config, "mlp_bias", where, false);
  expect_name(config, where, "scoring_func", "softmax");
  // The models' first code divides by the sum in place of multiplying by the scale, transformers does neither.
  if (bool_or(config, "norm_topk_prob", where, false))
    throw Error(ErrorCode::unsupported, where, "'norm_topk_prob': expected false for this family, got true");
  spec.router.normalise = false;
  if (spec.router.experts == 0) return spec;
  const std::string method = string_or(config, "topk_method", where, "greedy");
  if (method == "group_limited_greedy") {
    spec.router.best_alone = true;
    require_int(config, "n_group", where, 1, spec.router.experts);
    read_groups(config, where, 1, int(require_int(config, "topk_group", where, 1, spec.router.experts)), spec.router);
  } else if (method != "greedy" && method != "gready") {  // as mlx-lm spells its default
    throw Error(ErrorCode::unsupported, where,
                cat("'topk_method': expected greedy or group_limited_greedy, got '", method.substr(0, 40), "'"));
  }
  check_choice(spec.router, where);
  return spec;
}

LatentSpec read_deepseek_v3(const Json& config, std::string_view where) {
  return read_corrected(config, where,
                        {.q_rank = 1536,
                         .nope_dim = 128,
                         .value_dim = 128,
                         .experts = 256,
                         .shared = 1,
                         .dense_layers = 3,
                         .d_expert = 2048,
                         .router_scale = 2.5,
                         .further_layers = 1},
                        8, 4);
}

LatentSpec read_glm4_moe_lite(const Json& config, std::string_view where) {
  return read_corrected(config, where,
                        {.q_rank = 768,
                         .nope_dim = 192,
                         .value_dim = 256,
                         .experts = 64,
                         .shared = 1,
                         .dense_layers = 1,
                         .d_expert = 1536,
                         .eps = 1e-5,
                         .router_scale = 1.8,
                         .further_layers = 1},
                        1, 1);
}

}  // namespace bumblebee::models
