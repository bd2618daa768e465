// SRC[:SCALE]: what follows the last colon is a scale when it reads as a number; a directory of that whole name wins.
#include "options/adapter_flags.h"

#include <charconv>
#include <cmath>
#include <filesystem>
#include <optional>

#include "options/hub_source.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace {

struct Named {
  std::string source;
  std::optional<float> scale;
};

Named split(const std::string& text) {
  std::error_code failure;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::is_directory(text, failure)) return {text, {}};
  const std::string number = text.substr(colon + 1);
  float scale = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), scale);
  if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(scale))
    throw UsageError("--adapter: expected SRC or SRC:SCALE with a number as the scale, got '" + text + "'");
  return {text.substr(0, colon), scale};
}

}  // namespace

void add_adapter_flags(Parser& verb, AdapterFlags& flags) {
  verb.add_option("--adapter", flags.adapters,
                  "An adapter of mlx-lm or PEFT; SCALE instead of its own scale. Several are composed")
      ->allow_extra_args(false)
      ->option_text("SRC[:SCALE]")
      ->group("Model");
}

std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common) {
  std::vector<WeightedAdapter> loaded;
  for (const std::string& text : flags.adapters) {
    const Named named = split(text);
    if (named.source.empty()) throw UsageError("--adapter: expected a source, got '" + text + "'");
    loaded.emplace_back(load_adapter(hub_source(named.source, common), {.scale = named.scale, .name = ""}));
  }
  return loaded;
}

}  // namespace bumblebee::cli
