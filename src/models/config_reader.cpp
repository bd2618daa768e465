// Reads and checks what all decoder configs have in common.
#include "models/config_reader.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "models/rope.h"

namespace bumblebee::models {
namespace {

/// How a config says that it does without: what Python calls false, -1; 1 for what multiplies or divides.
bool is_off(std::string_view key, const Json& value) {
  const bool factor =
      key == "logits_scaling" || key == "logit_scale" || key == "embedding_multiplier" || key == "residual_multiplier";
  return is_falsy(value) || value == -1 || (factor && value == 1);
}

bool is_implemented(const std::vector<std::string_view>& implemented, std::string_view key) {
  return std::find(implemented.begin(), implemented.end(), key) != implemented.end();
}

/// Keys of other families that would change the result if they were ignored, with the value that means "off".
void refuse_foreign_settings(const Json& config, std::string_view where,
                             const std::vector<std::string_view>& implemented) {
  constexpr std::array<const char*, 20> keys = {"final_logit_softcapping",
                                                "attn_logit_softcapping",
                                                "query_pre_attn_scalar",
                                                "logits_scaling",
                                                "logit_scale",
                                                "embedding_multiplier",
                                                "residual_multiplier",
                                                "attention_multiplier",
                                                "no_rope_layers",
                                                "num_experts",
                                                "num_local_experts",
                                                "clip_qkv",
                                                "use_qk_norm",
                                                "attention_sink_size",
                                                "rope_interleaved",
                                                "rope_traditional",
                                                "use_bidirectional_attention",
                                                "attention_chunk_size",
                                                "use_parallel_residual",
                                                "alibi"};
  for (const char* key : keys) {
    const auto it = config.find(key);
    if (it == config.end() || is_off(key, *it)) continue;
    if (is_implemented(implemented, key)) continue;
    throw Error(ErrorCode::unsupported, where,
                cat("'", key, "' changes the result and is not implemented for this family, got ", brief(*it)));
  }
  if (!bool_or(config, "is_causal", where, true))
    throw Error(ErrorCode::unsupported, where, "'is_causal': expected true, this model looks ahead");
  for (const char* key : {"rotary_pct", "scale_emb"}) {
    if (const double value = number_or(config, key, where, 1); value != 1)
      throw Error(ErrorCode::unsupported, where, cat("'", key, "': expected 1 for this family, got ", value));
  }
}

void check_architecture(const Json& config, std::string_view where) {
  const auto it = config.find("architectures");
  if (it == config.end() || it->is_null()) return;
  if (!it->is_array())
    throw Error(ErrorCode::bad_config, where, cat("'architectures': expected a list, got ", brief(*it)));
  // The head is another one in models that classify or give scores; other names only say how the model is packaged.
  for (const Json& name : *it) {
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    for (const char* head : {"Classification", "QuestionAnswering", "Reward", "MultipleChoice", "MaskedLM"}) {
      if (text.find(head) != std::string::npos)
        throw Error(ErrorCode::unsupported, where, cat("'architectures': expected a ...ForCausalLM, got ", brief(*it)));
    }
  }
}

void check_activation(const Json& config, std::string_view where) {
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const std::string name = string_or(config, key, where, "silu");
    if (name != "silu" && name != "swish") {
      throw Error(ErrorCode::unsupported, where, cat("'", key, "': expected silu, got '", name.substr(0, 40), "'"));
    }
  }
}

}  // namespace

DecoderSpec read_common(const Json& config, std::string_view where, const FamilyDefaults& defaults) {
  const auto absent = [&](const char* key) { return !has_key(config, key); };
  const int missing = absent("hidden_size") + absent("num_hidden_layers") + absent("num_attention_heads");
  // Where a head's width is said, tensors' shapes tell whether the number of heads that nobody said is the true one.
  if (defaults.sizes && (missing == 3 || (missing > 0 && !absent("head_dim")))) {
    const DefaultSizes& s = *defaults.sizes;
    Json whole = {{"hidden_size", s.d_model},       {"num_hidden_layers", s.layers},
                  {"num_attention_heads", s.heads}, {"num_key_value_heads", s.kv_heads},
                  {"intermediate_size", s.d_ff},    {"vocab_size", s.vocab}};
    whole.update(config);
    FamilyDefaults others = defaults;
    others.sizes.reset();
    return read_common(whole, where, others);
  }
  check_architecture(config, where);
  check_activation(config, where);
  refuse_foreign_settings(config, where, defaults.implemented);

  DecoderSpec spec;
  nn::ModelDims& d = spec.dims;
  d.layers = int(require_int(config, "num_hidden_layers", where, 1, 4096));
  d.d_model = int(require_int(config, "hidden_size", where, 1, kMaxSize));
  d.heads = int(require_int(config, "num_attention_heads", where, 1, 65536));
  d.kv_heads = int(int_or(config, "num_key_value_heads", where, 1, d.heads, d.heads));
  d.d_ff = int(defaults.only_experts ? int_or(config, "intermediate_size", where, 1, kMaxSize, d.d_model)
                                     : require_int(config, "intermediate_size", where, 1, kMaxSize));
  d.vocab = int(require_int(config, "vocab_size", where, 1, kMaxSize));
  d.context = int(int_or(config, "max_position_embeddings", where, 1, int64_t{1} << 30, defaults.context));
  if (d.heads % d.kv_heads != 0) {
    throw Error(ErrorCode::bad_config, where,
                cat("'num_key_value_heads': expected a divisor of ", d.heads, " heads, got ", d.kv_heads));
  }
  const char* const width = defaults.latent ? "qk_rope_head_dim" : "head_dim";
  const int default_dim = defaults.latent ? 64 : defaults.head_dim;
  const bool explicit_dim = has_key(config, width) || default_dim > 0;
  if (!explicit_dim && d.d_model % d.heads != 0) {
    throw Error(
        ErrorCode::bad_config, where,
        cat("'hidden_size': expected a multiple of ", d.heads, " heads when 'head_dim' is absent, got ", d.d_model));
  }
  d.head_dim = int(int_or(config, width, where, 2, 4096, default_dim > 0 ? default_dim : d.d_model / d.heads));
  if (d.head_dim % 2 != 0)
    throw Error(ErrorCode::bad_config, where, cat("'", width, "': expected an even number, got ", d.head_dim));
  if (int64_t{d.heads} * d.head_dim > kMaxSize)
    throw Error(ErrorCode::bad_config, where, cat("heads x head_dim: expected at most ", kMaxSize));

  const auto tie = config.find("tie_word_embeddings");
  spec.tied_known = tie != config.end() && !tie->is_null();
  d.tied_head = bool_or(config, "tie_word_embeddings", where, false);
  spec.eps = number_or(config, "rms_norm_eps", where, defaults.eps);
  if (!(spec.eps >= 0 && spec.eps <= 1))
    throw Error(ErrorCode::bad_config, where, cat("'rms_norm_eps': expected from 0 to 1, got ", spec.eps));
  Rope rope = read_rope(config, where, d.head_dim, d.context, defaults.theta, defaults.rotary,
                        is_implemented(defaults.implemented, "partial_rotary_factor"));
  spec.rope = std::move(rope.params);
  spec.score_scale = rope.score_scale;
  d.context = rope.context;
  if (!rope.long_inv_freq.empty()) {
    spec.rope.long_inv_freq = std::move(rope.long_inv_freq);
    d.stretch_beyond = std::exchange(d.context, rope.long_context);
  }
  spec.windows.assign(size_t(d.layers), 0);
  return spec;
}

std::vector<bool> read_expert_layers(const Json& config, std::string_view where, int layers) {
  const int64_t step = int_or(config, "decoder_sparse_step", where, 1, 65536, 1);
  std::vector<bool> sparse;
  for (int i = 0; i < layers; ++i) sparse.push_back((i + 1) % step == 0);
  const auto plain = config.find("mlp_only_layers");
  if (plain == config.end() || plain->is_null()) return sparse;
  if (!plain->is_array())
    throw Error(ErrorCode::bad_config, where, cat("'mlp_only_layers': expected a list, got ", brief(*plain)));
  for (const Json& layer : *plain) {
    if (!layer.is_number_integer() || layer < 0 || layer >= layers) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'mlp_only_layers': expected numbers below ", layers, ", got ", brief(layer)));
    }
    sparse[layer.get<size_t>()] = false;
  }
  return sparse;
}

void read_expert_counts(const Json& config, std::string_view where, std::initializer_list<const char*> keys,
                        int default_experts, int default_of_row, DecoderSpec& spec) {
  constexpr int kMostExperts = 65536;
  const char* said = nullptr;
  int64_t experts = default_experts;
  for (const char* key : keys) {
    if (!config.contains(key) || config[key].is_null()) continue;
    const int64_t count = require_int(config, key, where, 1, kMostExperts);
    if (said != nullptr && count != experts) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'", said, "' and '", key, "' disagree: got ", experts, " and ", count));
    }
    said = key;
    experts = count;
  }
  RouterParams& router = spec.moe.router;
  router.experts = int(experts);
  router.top_k = int(int_or(config, "num_experts_per_tok", where, 1, kMostExpertsOfRow, default_of_row));
  if (router.top_k > router.experts) {
    throw Error(ErrorCode::bad_config, where,
                cat("'num_experts_per_tok': expected at most ", router.experts, " experts, got ", router.top_k));
  }
}

void read_delta(const Json& config, std::string_view where, const DeltaSpec& defaults, DecoderSpec& spec) {
  nn::ModelDims& d = spec.dims;
  spec.qk_norm = true;
  spec.qkv_bias = spec.o_bias = bool_or(config, "attention_bias", where, false);
  if (!bool_or(config, "attn_output_gate", where, true))
    throw Error(ErrorCode::unsupported, where, "'attn_output_gate': expected true for this family, got false");

  DeltaSpec delta = defaults;
  const auto size = [&](const char* key, int64_t most, int fallback) {
    return int(int_or(config, key, where, 1, most, fallback));
  };
  delta.key_heads = size("linear_num_key_heads", 4096, 16);
  delta.value_heads = size("linear_num_value_heads", 4096, 32);
  delta.key_dim = size("linear_key_head_dim", 4096, 128);
  delta.value_dim = size("linear_value_head_dim", 4096, 128);
  delta.kernel = int(int_or(config, "linear_conv_kernel_dim", where, 2, 16, 4));
  if (delta.value_heads % delta.key_heads != 0) {
    throw Error(ErrorCode::bad_config, where,
                cat("'linear_num_value_heads': expected a multiple of ", delta.key_heads, " key heads, got ",
                    delta.value_heads));
  }
  if (const int64_t state = int64_t{delta.value_heads} * delta.key_dim * delta.value_dim; state > kMaxSize) {
    throw Error(ErrorCode::bad_config, where,
                cat("'linear_num_value_heads' x 'linear_key_head_dim' x 'linear_value_head_dim': expected at most ",
                    kMaxSize, ", got ", state));
  }

  const int64_t interval = int_or(config, "full_attention_interval", where, 1, 65536, 4);
  const auto types = config.find("layer_types");
  const bool named = types != config.end() && !types->is_null();
  if (named && (!types->is_array() || types->size() != size_t(d.layers))) {
    throw Error(ErrorCode::bad_config, where,
                cat("'layer_types': expected a list of ", d.layers, " names, got ", brief(*types)));
  }
  KvGroup attention{.kv_heads = d.kv_heads, .head_dim = d.head_dim};
  KvGroup states{.kind = KvGroup::Kind::state,
                 .state = {.conv_rows = delta.kernel - 1,
                           .conv_cols = delta.conv_cols(),
                           .heads = delta.value_heads,
                           .key_dim = delta.key_dim,
                           .value_dim = delta.value_dim}};
  for (int i = 0; i < d.layers; ++i) {
    bool recurrent = (i + 1) % interval != 0;
    if (named) {
      const Json& type = (*types)[size_t(i)];
      recurrent = type == "linear_attention";
      if (!recurrent && type != "full_attention") {
        throw Error(ErrorCode::unsupported, where,
                    cat("'layer_types': expected linear_attention or full_attention, got ", brief(type)));
      }
    }
    d.kv_places.push_back(recurrent ? KvPlace{1, states.layers++} : KvPlace{0, attention.layers++});
  }
  d.kv_groups = {attention, states};
  spec.delta = delta;
}

bool read_layer_windows(const Json& config, std::string_view where, int window, DecoderSpec& spec) {
  const auto types = config.find("layer_types");
  if (types == config.end() || types->is_null()) return false;
  if (!types->is_array() || types->size() != size_t(spec.dims.layers)) {
    throw Error(ErrorCode::bad_config, where,
                cat("'layer_types': expected a list of ", spec.dims.layers, " names, got ", brief(*types)));
  }
  for (size_t i = 0; i < types->size(); ++i) {
    const Json& type = (*types)[i];
    if (type == "sliding_attention") {
      spec.windows[i] = window;
    } else if (type != "full_attention") {
      throw Error(ErrorCode::unsupported, where,
                  cat("'layer_types': expected full_attention or sliding_attention, got ", brief(type)));
    }
  }
  return true;
}

void read_qwen_windows(const Json& config, std::string_view where, DecoderSpec& spec) {
  if (!bool_or(config, "use_sliding_window", where, false)) return refuse_layer_types(config, where);
  const int window = std::max(0, int(int_or(config, "sliding_window", where, -1, int64_t{1} << 30, 4096)));
  if (read_layer_windows(config, where, window, spec)) return;
  const int64_t first = int_or(config, "max_window_layers", where, 0, 65536, 28);
  for (int64_t i = first; i < spec.dims.layers; ++i) spec.windows[size_t(i)] = window;
}

void refuse_layer_types(const Json& config, std::string_view where) {
  const auto types = config.find("layer_types");
  if (types == config.end() || types->is_null()) return;
  if (!types->is_array())
    throw Error(ErrorCode::bad_config, where, cat("'layer_types': expected a list, got ", brief(*types)));
  for (const Json& type : *types) {
    if (type != "full_attention")
      throw Error(ErrorCode::unsupported, where, cat("'layer_types': expected full_attention, got ", brief(type)));
  }
}

}  // namespace bumblebee::models
