// Reads the settings of Gemma 2 and 3, with the defaults of transformers.
#include "models/gemma_config.h"

#include <cmath>

#include "base/error.h"
#include "models/gemma.h"
#include "models/numbers.h"
#include "models/rope.h"

namespace bumblebee::models {
namespace {

constexpr int64_t kLongest = int64_t{1} << 30;

bool says(const Json& object, const char* key) { return has_key(object, key) && !object.at(key).is_null(); }

}  // namespace

void GemmaConfig::default_to(const char* key, const Json& value) {
  if (!says(rest_, key)) rest_[key] = value;
}

DecoderSpec GemmaConfig::common() {
  const std::string activation = string_or(all_, "hidden_activation", where_, "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") {
    throw Error(ErrorCode::unsupported, where_,
                cat("'hidden_activation': expected gelu_pytorch_tanh, got '", activation.substr(0, 40), "'"));
  }
  // `hidden_act` is what old files say beside it or without it; the model's code does not read it.
  for (const char* key : {"hidden_activation", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters",
                          "rope_local_base_freq", "layer_types", "partial_rotary_factor"})
    take(key);
  return read_common(rest_, where_, {.eps = 1e-6, .theta = 10000});
}

float GemmaConfig::cap(const char* key, float fallback) {
  take(key);
  if (!has_key(all_, key)) return fallback;
  if (!says(all_, key)) return 0;
  return float(positive_or(all_, key, where_, 0));
}

std::vector<int> GemmaConfig::windows(int layers, int pattern, int default_window) {
  std::vector<bool> slides;
  if (says(all_, "layer_types")) {
    const Json& types = all_.at("layer_types");
    if (!types.is_array() || types.size() != size_t(layers)) {
      throw Error(ErrorCode::bad_config, where_,
                  cat("'layer_types': expected a list of ", layers, " names, got ", brief(types)));
    }
    for (const Json& type : types) {
      if (type != "sliding_attention" && type != "full_attention") {
        throw Error(ErrorCode::unsupported, where_,
                    cat("'layer_types': expected full_attention or sliding_attention, got ", brief(type)));
      }
      slides.push_back(type == "sliding_attention");
    }
  } else {
    for (int i = 0; i < layers; ++i) slides.push_back((i + 1) % pattern != 0);
  }
  const int window = int(int_or(all_, "sliding_window", where_, 1, kLongest, default_window));
  std::vector<int> windows;
  for (const bool slide : slides) windows.push_back(slide ? window : 0);
  return windows;
}

RopeParams GemmaConfig::rope(const char* kind, const char* theta, const char* scaling, int head_dim, int context,
                             const Json& defaults) {
  Json settings = rope_settings_of_kind(all_, where_, kind, {.theta = theta, .scaling = scaling}, defaults);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    // These models' context is the one that the factor has stretched.
    if (!says(settings, key) || !settings[key].is_object() || says(settings[key], "original_max_position_embeddings"))
      continue;
    const Json& type = settings[key].contains("rope_type") ? settings[key]["rope_type"] : settings[key]["type"];
    if (type == "linear") settings[key]["original_max_position_embeddings"] = context;
  }
  const double theta_default = defaults.at("rope_theta").get<double>();
  if (settings.value("rope_parameters", Json::object()).value("rope_type", Json()) == "proportional")
    return read_proportional_rope(settings, where_, head_dim, theta_default);
  return one_rotation(read_rope(settings, where_, head_dim, context, theta_default), where_);
}

namespace {

GemmaSpec of_common(const DecoderSpec& common) {
  GemmaSpec spec;
  spec.dims = common.dims;
  spec.eps = common.eps;
  spec.tied_known = common.tied_known;
  return spec;
}

float score_scale(GemmaConfig& config) {
  config.take("query_pre_attn_scalar");
  return float(1 / std::sqrt(positive_or(config.all(), "query_pre_attn_scalar", config.where(), 256)));
}

}  // namespace

GemmaSpec read_gemma2(const Json& json, std::string_view where) {
  GemmaConfig config(json, where);
  const float scale = score_scale(config), attention_cap = config.cap("attn_logit_softcapping", 50),
              logits_cap = config.cap("final_logit_softcapping", 30);
  config.default_to("head_dim", 256);
  config.default_to("max_position_embeddings", 8192);
  // One rotation for all layers.
  Json turning = Json::object();
  for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"})
    if (says(json, key)) turning[key] = json.at(key);
  GemmaSpec spec = of_common(config.common());
  const nn::ModelDims& d = spec.dims;
  Rope rope = read_rope(turning, where, d.head_dim, d.context, 10000);
  spec.dims.context = rope.context;
  spec.full_rope = spec.window_rope = one_rotation(std::move(rope), where);
  spec.attention_bias = bool_or(json, "attention_bias", where, false);
  spec.scale = scale;
  spec.attention_cap = attention_cap;
  spec.logits_cap = logits_cap;
  spec.windows = config.windows(d.layers, 2, 4096);
  return spec;
}

GemmaSpec read_gemma3(const Json& json, std::string_view where) {
  GemmaConfig config(json, where);
  const float scale = score_scale(config), logits_cap = config.cap("final_logit_softcapping", 0);
  for (const auto& [key, value] : {std::pair<const char*, int>{"vocab_size", 262208},
                                   {"hidden_size", 2304},
                                   {"intermediate_size", 9216},
                                   {"num_hidden_layers", 26},
                                   {"num_attention_heads", 8},
                                   {"num_key_value_heads", 4},
                                   {"head_dim", 256},
                                   {"max_position_embeddings", 131072}})
    config.default_to(key, value);
  GemmaSpec spec = of_common(config.common());
  const nn::ModelDims& d = spec.dims;
  spec.full_rope = config.rope("full_attention", "rope_theta", "rope_scaling", d.head_dim, d.context,
                               {{"rope_theta", 1e6}, {"rope_type", "default"}});
  spec.window_rope = config.rope("sliding_attention", "rope_local_base_freq", nullptr, d.head_dim, d.context,
                                 {{"rope_theta", 1e4}, {"rope_type", "default"}});
  spec.attention_bias = bool_or(json, "attention_bias", where, false);
  spec.head_norms = true;
  spec.scale = scale;
  spec.logits_cap = logits_cap;
  spec.windows = config.windows(d.layers, int(int_or(json, "sliding_window_pattern", where, 1, 4096, 6)), 4096);
  return spec;
}

}  // namespace bumblebee::models
