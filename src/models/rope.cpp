// Inverse frequencies per rope type.
#include "models/rope.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace bumblebee::models {
namespace {

/// theta^(i/dims) as transformers has it: the exponent and the power are f32.
std::vector<float> base_periods(double theta, int dims) {
  std::vector<float> periods;
  for (int i = 0; i < dims; i += 2)
    periods.push_back(float(std::pow(double(float(theta)), double(float(i) / float(dims)))));
  return periods;
}

double positive(const Json& object, const char* key, std::string_view where, double fallback) {
  const double value = number_or(object, key, where, fallback);
  if (!(value > 0))
    throw Error(ErrorCode::bad_config, where, cat("rope '", key, "': expected a positive number, got ", value));
  return value;
}

double factor_of(const Json& scaling, std::string_view where) {
  if (!scaling.contains("factor")) throw Error(ErrorCode::bad_config, where, "rope scaling: missing key 'factor'");
  return positive(scaling, "factor", where, 1);
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
  const double factor = factor_of(scaling, where);
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
  if (scaling.contains("attention_factor") && !scaling["attention_factor"].is_null())
    return float(positive(scaling, "attention_factor", where, 1));
  const double mscale = number_or(scaling, "mscale", where, 0), all = number_or(scaling, "mscale_all_dim", where, 0);
  return float(mscale != 0 && all != 0 ? get_mscale(mscale) / get_mscale(all) : get_mscale(1));
}

}  // namespace

RopeParams read_rope(const Json& config, std::string_view where, int head_dim, int context, double default_theta) {
  const auto object_at = [&](const char* key) -> Json {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) return Json::object();
    if (!it->is_object())
      throw Error(ErrorCode::bad_config, where, cat("'", key, "': expected an object, got ", brief(*it)));
    return *it;
  };
  const Json parameters = object_at("rope_parameters");
  const Json scaling = parameters.empty() ? object_at("rope_scaling") : parameters;

  const double theta = positive(parameters, "rope_theta", where, positive(config, "rope_theta", where, default_theta));
  if (theta <= 1) throw Error(ErrorCode::bad_config, where, cat("'rope_theta': expected more than 1, got ", theta));
  for (const Json* place : std::initializer_list<const Json*>{&config, &scaling}) {
    if (number_or(*place, "partial_rotary_factor", where, 1) != 1) {
      throw Error(ErrorCode::unsupported, where,
                  "'partial_rotary_factor': expected 1, rotating a part of a head is not implemented for this family");
    }
  }
  const std::string type = string_or(scaling, "rope_type", where, string_or(scaling, "type", where, "default"));

  RopeParams rope;
  rope.dims = head_dim;
  for (float period : base_periods(theta, head_dim)) rope.inv_freq.push_back(1.0f / period);
  if (type == "default") return rope;
  if (type == "linear") {
    const float factor = float(factor_of(scaling, where));
    for (float& f : rope.inv_freq) f /= factor;
  } else if (type == "llama3") {
    scale_llama3(scaling, where, context, rope.inv_freq);
  } else if (type == "yarn") {
    rope.attention_factor = scale_yarn(scaling, where, context, theta, head_dim, rope.inv_freq);
  } else {
    throw Error(ErrorCode::unsupported, where,
                cat("rope type: expected default, linear, llama3 or yarn, got '", type.substr(0, 40), "'"));
  }
  return rope;
}

}  // namespace bumblebee::models
