// What the places of a config say together, then inverse frequencies per rope type.
#include "models/rope.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "models/numbers.h"

namespace bumblebee::models {
namespace {

constexpr int kLargestStretch = 1024;  // of a context; what is used goes up to 64

/// theta^(i/dims) as transformers has it: the exponent and the power are f32.
std::vector<float> base_periods(double theta, int dims) {
  std::vector<float> periods;
  for (int i = 0; i < dims; i += 2)
    periods.push_back(float(std::pow(double(float(theta)), double(float(i) / float(dims)))));
  return periods;
}

bool given(const Json& object, const char* key) { return object.contains(key) && !object[key].is_null(); }

double positive(const Json& object, const char* key, std::string_view where, double fallback) {
  return positive_or(object, key, where, fallback, "rope ");
}

/// Frequencies are divided by it: what is far below 1 would make angles that no float holds.
double checked_factor(double factor, std::string_view where, const char* key = "factor") {
  if (!(factor >= 1.0 / kLargestStretch)) {
    throw Error(ErrorCode::bad_config, where,
                cat("rope '", key, "': expected at least 1/", kLargestStretch, ", got ", factor));
  }
  return factor;
}

double factor_of(const Json& scaling, std::string_view where) {
  if (!given(scaling, "factor")) throw Error(ErrorCode::bad_config, where, "rope scaling: missing key 'factor'");
  return checked_factor(positive(scaling, "factor", where, 1), where);
}

/// Null or absent beside an original length, it is how much longer the context is.
double yarn_factor(const Json& scaling, std::string_view where, int context) {
  if (given(scaling, "factor") || !given(scaling, "original_max_position_embeddings")) return factor_of(scaling, where);
  return checked_factor(context / positive(scaling, "original_max_position_embeddings", where, context), where);
}

void scale_llama3(const Json& scaling, std::string_view where, int context, std::vector<float>& inv_freq) {
  const float factor = float(factor_of(scaling, where));
  const float low = float(positive(scaling, "low_freq_factor", where, 1));
  const float high = float(positive(scaling, "high_freq_factor", where, 4));
  const float original = float(positive(scaling, "original_max_position_embeddings", where, context));
  if (!(high > low))
    throw Error(ErrorCode::bad_config, where,
                cat("rope 'high_freq_factor': expected more than low_freq_factor ", low, ", got ", high));
  for (float& f : inv_freq) {
    const float wavelength = 2 * std::numbers::pi_v<float> / f;
    if (wavelength > original / low) {
      f = f / factor;
    } else if (wavelength >= original / high) {
      const float smooth = (original / wavelength - low) / (high - low);
      f = (1 - smooth) * (f / factor) + smooth * f;
    }
  }
}

/// Returns the factor that q and k are multiplied by.
float scale_yarn(const Json& scaling, std::string_view where, int context, double theta, int dims,
                 std::vector<float>& inv_freq) {
  const double factor = yarn_factor(scaling, where, context);
  const double original = positive(scaling, "original_max_position_embeddings", where, context);
  const double fast = positive(scaling, "beta_fast", where, 32), slow = positive(scaling, "beta_slow", where, 1);
  const auto dimension = [&](double rotations) {
    return dims * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(fast), high = dimension(slow);
  if (bool_or(scaling, "truncate", where, true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, double(dims - 1));
  if (low == high) high += 0.001;  // the paper's ramp would divide by zero
  const std::vector<float> periods = base_periods(theta, dims);
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float ramp = std::clamp((float(i) - float(low)) / (float(high) - float(low)), 0.0f, 1.0f);
    const float interpolated = 1.0f / (float(factor) * periods[i]);
    inv_freq[i] = interpolated * ramp + (1.0f / periods[i]) * (1 - ramp);
  }
  const auto get_mscale = [&](double scale) { return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0; };
  if (given(scaling, "attention_factor")) return float(positive(scaling, "attention_factor", where, 1));
  const double mscale = number_or(scaling, "mscale", where, 0), all = number_or(scaling, "mscale_all_dim", where, 0);
  const double scale = mscale != 0 && all != 0 ? get_mscale(mscale) / get_mscale(all) : get_mscale(1);
  if (!(scale >= FLT_MIN && scale <= FLT_MAX)) {
    throw Error(ErrorCode::bad_config, where,
                cat("rope 'mscale' and 'mscale_all_dim': expected a positive factor, got ", mscale, " and ", all));
  }
  return float(scale);
}

int original_context(const Json& settings, std::string_view where, int context) {
  return int(int_or(settings, "original_max_position_embeddings", where, 2, int64_t{1} << 30, std::max(context, 2)));
}

/// Inverse frequencies by the factors called `key`.
std::vector<float> longrope_frequencies(const Json& settings, std::string_view where, const char* key,
                                        const std::vector<float>& periods) {
  const auto list = settings.find(key);
  if (list == settings.end() || !list->is_array() || list->size() != periods.size()) {
    throw Error(ErrorCode::bad_config, where,
                cat("rope '", key, "': expected a list of ", periods.size(), " numbers, got ",
                    list == settings.end() ? "none" : brief(*list)));
  }
  std::vector<float> inv_freq;
  for (size_t i = 0; i < periods.size(); ++i) {
    const Json& factor = (*list)[i];
    if (!factor.is_number())
      throw Error(ErrorCode::bad_config, where,
                  cat("rope '", key, "': expected positive numbers, got ", brief(factor)));
    inv_freq.push_back(1.0f / (float(checked_factor(factor.get<double>(), where, key)) * periods[i]));
  }
  return inv_freq;
}

/// Short factors, those of texts within the original context, and long ones where the context is longer.
void scale_longrope(const Json& settings, std::string_view where, int context, double theta, Rope& rope) {
  const std::vector<float> periods = base_periods(theta, rope.params.dims);
  const int original = original_context(settings, where, context);
  rope.params.inv_freq = longrope_frequencies(settings, where, "short_factor", periods);
  rope.context = std::min(context, original);
  if (original < context) {
    rope.long_inv_freq = longrope_frequencies(settings, where, "long_factor", periods);
    rope.long_context = context;
  }
  if (given(settings, "attention_factor")) {
    rope.params.attention_factor = float(positive(settings, "attention_factor", where, 1));
    return;
  }
  const double factor = given(settings, "factor") ? positive(settings, "factor", where, 1) : context / double(original);
  if (factor > 1) rope.params.attention_factor = float(std::sqrt(1 + std::log(factor) / std::log(double(original))));
}

/// One place's object without nulls, its type under the newer name. Transformers 5 may write it once for each kind of
/// layer.
Json settings_at(const Json& config, const std::string& key, std::string_view where) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return Json::object();
  if (!it->is_object())
    throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected an object, got ", brief(*it)));
  Json settings = Json::object();
  std::string kind;  // of layer, the first
  for (const auto& [name, value] : it->items()) {
    if (value.is_null()) continue;
    const bool of_a_kind = value.is_object();
    if (of_a_kind == kind.empty() && !settings.empty())
      throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected settings or kinds of layers, got both"));
    if (!of_a_kind) {
      settings[name] = value;
      continue;
    }
    Json one = settings_at(*it, name, where);
    if (!kind.empty() && one != settings) {
      throw Error(
          ErrorCode::unsupported, where,
          cat("'", key, ".", kind, "' and '", key, ".", name, "' disagree: expected one rotation for all layers"));
    }
    if (kind.empty()) kind = name;
    settings = std::move(one);
  }
  if (settings.contains("type")) {
    const Json type = settings["type"];
    settings.erase("type");
    if (settings.value("rope_type", type) != type) {
      throw Error(ErrorCode::bad_config, where,
                  cat("'", key, ".type' and '", key, ".rope_type' disagree: got ", brief(type), " and ",
                      brief(settings["rope_type"])));
    }
    settings["rope_type"] = type;
  }
  return settings;
}

/// Keys whose meaning is known here: what another would change cannot be told.
void refuse_unknown(const Json& settings, const std::string& place, std::string_view where) {
  static const std::set<std::string> kKnown = {
      "rope_theta", "rope_type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
      "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor",
      "partial_rotary_factor",
      // Without effect on text: sections of image positions, lists of a type that is refused, how the weights were
      // made.
      "mrope_section", "mrope_interleaved", "short_factor", "long_factor", "finetuned"};
  for (const auto& [name, value] : settings.items()) {
    if (kKnown.contains(name)) continue;
    throw Error(ErrorCode::unsupported, where,
                cat("'", place, ".", name, "' is not understood and could change the result, got ", brief(value)));
  }
}

/// Everything that is said of the rotation, wherever it stands: transformers 4 writes `rope_theta` at the top and
/// `rope_scaling`, transformers 5 `rope_parameters`, and people and tools add to either. Two places may say different
/// things, but not of the same: transformers lets one of them win, and which one depends on its version.
Json all_settings(const Json& config, std::string_view where) {
  Json all = Json::object();
  std::map<std::string, std::string> said_by;
  const auto say = [&](const std::string& name, const Json& value, const std::string& place) {
    if (value.is_null()) return;
    if (all.contains(name) && all[name] != value) {
      throw Error(
          ErrorCode::bad_config, where,
          cat("'", said_by[name], "' and '", place, "' disagree: got ", brief(all[name]), " and ", brief(value)));
    }
    all[name] = value;
    said_by[name] = place;
  };
  for (const char* key : {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"})
    if (config.contains(key)) say(key, config[key], key);
  Json parameters = settings_at(config, "rope_parameters", where);
  const Json scaling = settings_at(config, "rope_scaling", where);
  // Written by transformers 5 where nothing was said; scaling beside it was added later.
  if (parameters.value("rope_type", Json()) == "default" && scaling.contains("rope_type"))
    parameters.erase("rope_type");
  const std::pair<const char*, const Json*> places[] = {{"rope_parameters", &parameters}, {"rope_scaling", &scaling}};
  for (const auto& [place, settings] : places) {
    refuse_unknown(*settings, place, where);
    for (const auto& [name, value] : settings->items()) say(name, value, cat(place, ".", name));
  }
  if (all.contains("factor") && !all.contains("rope_type")) {
    throw Error(ErrorCode::bad_config, where,
                cat("'", said_by["factor"], "': expected a 'rope_type' beside it, got none"));
  }
  return all;
}

/// max_position_embeddings stays what it was when a model is stretched by its config alone.
int lengthened(const Json& settings, std::string_view where, int context, double factor) {
  const double length = factor * positive(settings, "original_max_position_embeddings", where, context);
  if (length > kLargestStretch * double(context)) {
    throw Error(
        ErrorCode::bad_config, where,
        cat("rope 'factor': expected at most ", kLargestStretch, " times the context of ", context, ", got ", factor));
  }
  return int(std::clamp(length, double(context), double(1 << 30)));
}

}  // namespace

Rope read_rope(const Json& config, std::string_view where, int head_dim, int context, double default_theta,
               double default_rotary, bool any_rotary) {
  const Json settings = all_settings(config, where);
  const double theta = positive(settings, "rope_theta", where, default_theta);
  if (theta <= 1) throw Error(ErrorCode::bad_config, where, cat("'rope_theta': expected more than 1, got ", theta));
  const double rotary = number_or(settings, "partial_rotary_factor", where, default_rotary);
  if (default_rotary == 1 && rotary != 1 && !any_rotary) {
    throw Error(ErrorCode::unsupported, where,
                "'partial_rotary_factor': expected 1, rotating a part of a head is not implemented for this family");
  }
  const int dims = rotary > 0 && rotary <= 1 ? int(head_dim * rotary) : 0;
  if (dims < 2 || dims % 2 != 0) {
    throw Error(ErrorCode::bad_config, where,
                cat("'partial_rotary_factor': expected an even number of a head's ", head_dim, " features, got ",
                    rotary, " of them"));
  }
  const std::string type = string_or(settings, "rope_type", where, "default");

  Rope result{.params = {}, .context = context};
  RopeParams& rope = result.params;
  rope.dims = dims;
  for (float period : base_periods(theta, dims)) rope.inv_freq.push_back(1.0f / period);
  // mrope: three positions of a token, which are one position where there are no images.
  if (type == "default" || type == "mrope") return result;
  if (const double all = number_or(settings, "mscale_all_dim", where, 0); all != 0) {
    const double factor = type == "yarn" ? yarn_factor(settings, where, context) : factor_of(settings, where);
    result.score_scale = factor <= 1 ? 1 : std::pow(0.1 * all * std::log(factor) + 1, 2);
    if (!(result.score_scale >= FLT_MIN && result.score_scale <= FLT_MAX))
      throw Error(ErrorCode::bad_config, where, cat("rope 'mscale_all_dim': expected a positive factor, got ", all));
  }
  if (type == "linear") {
    const double factor = factor_of(settings, where);
    for (float& f : rope.inv_freq) f /= float(factor);
    result.context = lengthened(settings, where, context, factor);
    // Some configs say the stretched length already, and which of the two is meant they do not say.
    if (!given(settings, "original_max_position_embeddings") && result.context != context) {
      note(where, "context taken for ", result.context, ", 'max_position_embeddings' ", context,
           " times the rope's factor: without 'original_max_position_embeddings' it may be ", context, " already");
    }
  } else if (type == "dynamic") {
    // The base grows with the length of a sequence from max_position_embeddings on; longer ones are not taken.
    factor_of(settings, where);
  } else if (type == "llama3") {
    scale_llama3(settings, where, context, rope.inv_freq);
  } else if (type == "yarn") {
    rope.attention_factor = scale_yarn(settings, where, context, theta, dims, rope.inv_freq);
    result.context = lengthened(settings, where, context, yarn_factor(settings, where, context));
  } else if (type == "longrope" || type == "su") {
    scale_longrope(settings, where, context, theta, result);
  } else {
    throw Error(ErrorCode::unsupported, where,
                cat("rope type: expected default, mrope, linear, dynamic, llama3, longrope or yarn, got '",
                    type.substr(0, 40), "'"));
  }
  return result;
}

RopeParams one_rotation(Rope rope, std::string_view where) {
  if (!rope.long_inv_freq.empty())
    throw Error(ErrorCode::unsupported, where,
                "rope type: expected one rotation for all lengths in this family, got longrope");
  return std::move(rope.params);
}

Json rope_settings_of_kind(const Json& config, std::string_view where, const char* kind, const RopeKeys& top,
                           const Json& defaults) {
  Json settings = Json::object();
  if (given(config, "rope_parameters")) {
    const Json& kinds = config.at("rope_parameters");
    if (!kinds.is_object())
      throw Error(ErrorCode::bad_config, where, cat("'rope_parameters': expected an object, got ", brief(kinds)));
    for (const auto& [name, value] : kinds.items()) {
      if (value.is_null() || (value.is_object() && (name == "full_attention" || name == "sliding_attention"))) continue;
      throw Error(ErrorCode::unsupported, where,
                  cat("'rope_parameters.", name, "': expected settings of full_attention or sliding_attention, got ",
                      brief(value)));
    }
    if (given(kinds, kind)) settings["rope_parameters"] = kinds.at(kind);
  }
  if (top.theta != nullptr && given(config, top.theta)) settings["rope_theta"] = config.at(top.theta);
  if (top.scaling != nullptr && given(config, top.scaling)) settings["rope_scaling"] = config.at(top.scaling);
  if (settings.empty()) settings["rope_parameters"] = defaults;
  return settings;
}

RopeParams read_proportional_rope(const Json& config, std::string_view where, int head_dim, double default_theta) {
  const Json settings = all_settings(config, where);
  const double theta = positive(settings, "rope_theta", where, default_theta);
  const double part = positive(settings, "partial_rotary_factor", where, 1);
  if (theta <= 1 || part > 1) {
    throw Error(ErrorCode::bad_config, where,
                cat("'rope_theta' and 'partial_rotary_factor': expected more than 1 and at most 1, got ", theta,
                    " and ", part));
  }
  const float factor = given(settings, "factor") ? float(factor_of(settings, where)) : 1.0f;
  RopeParams rope{.dims = head_dim, .inv_freq = {}};
  const size_t turning = size_t(std::floor(part * head_dim / 2));
  for (const float period : base_periods(theta, head_dim))
    rope.inv_freq.push_back(rope.inv_freq.size() < turning ? 1.0f / period / factor : 0.0f);
  return rope;
}

}  // namespace bumblebee::models
