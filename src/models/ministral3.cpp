// Ministral 3: Mistral whose queries grow with the logarithm of their position, by a step at each multiple of the
// original context, and whose rotation is yarn's.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cfloat>

#include "base/error.h"
#include "models/families.h"

namespace bumblebee::models {
namespace {

constexpr const char* kGrowth = "llama_4_scaling_beta";
constexpr const char* kSpan = "original_max_position_embeddings";
constexpr const char* kPlaces[] = {"rope_parameters", "rope_scaling"};

/// Where nothing is said of it.
Json default_rotation() {
  return {{"rope_type", "yarn"}, {"rope_theta", 1e6}, {"factor", 16.0},        {kSpan, 16384}, {"beta_fast", 32.0},
          {"beta_slow", 1.0},    {"mscale", 1.0},     {"mscale_all_dim", 1.0}, {kGrowth, 0.1}};
}

/// Takes what is this family's own out of the rotation's settings in `config`, and returns it.
Json take_growth(Json& config, std::string_view where) {
  Json own = Json::object();
  for (const char* place : kPlaces) {
    if (!config.contains(place) || !config[place].is_object()) continue;
    Json& settings = config[place];
    for (const char* key : {kGrowth, kSpan}) {
      if (!has_key(settings, key)) continue;
      if (own.contains(key) && own[key] != settings[key]) {
        throw Error(ErrorCode::bad_config, where,
                    cat("rope '", key, "': two places disagree: got ", brief(own[key]), " and ", brief(settings[key])));
      }
      own[key] = settings[key];
    }
    settings.erase(kGrowth);
    settings.erase("max_position_embeddings");  // once more
  }
  return own;
}

}  // namespace

DecoderSpec read_ministral3(const Json& config, std::string_view where) {
  Json rest = config;
  if (std::none_of(std::begin(kPlaces), std::end(kPlaces),
                   [&](const char* place) { return rest.contains(place) && !rest[place].is_null(); }))
    rest["rope_parameters"] = default_rotation();
  const Json own = take_growth(rest, where);
  DecoderSpec spec = read_common(rest, where, {.eps = 1e-5, .theta = 1e6, .context = 262144, .head_dim = 128});
  refuse_layer_types(config, where);
  const int window = std::max(0, int(int_or(config, "sliding_window", where, -1, int64_t{1} << 30, 0)));
  std::fill(spec.windows.begin(), spec.windows.end(), window);

  if (!has_key(own, kGrowth)) throw Error(ErrorCode::bad_config, where, cat("rope: missing key '", kGrowth, "'"));
  const double growth = number_or(own, kGrowth, where, 0);
  if (!(growth >= 0 && growth <= FLT_MAX))
    throw Error(ErrorCode::bad_config, where,
                cat("rope '", kGrowth, "': expected a float of at least 0, got ", growth));
  spec.rope.query_growth = float(growth);
  spec.rope.query_span = int(require_int(own, kSpan, where, 1, int64_t{1} << 30));
  return spec;
}

}  // namespace bumblebee::models
