// --adapter, on every verb that runs a model.
#include "options/adapter_flags.h"

#include "options/adapter_source.h"
#include "options/hub_source.h"

namespace bumblebee::cli {

void add_adapter_flags(Parser& verb, AdapterFlags& flags) {
  verb.add_option("--adapter", flags.adapters,
                  "An adapter of mlx-lm or PEFT, with a weight (1: as trained) or its scale. Several are composed")
      ->allow_extra_args(false)
      ->option_text("SRC[:WEIGHT|:scale=X]")
      ->group("Model");
}

std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common) {
  std::vector<WeightedAdapter> loaded;
  for (const std::string& text : flags.adapters) {
    const AdapterSource source = AdapterSource::parse(text);
    loaded.emplace_back(load_adapter(hub_source(source.source, common), {.scale = source.scale, .name = ""}),
                        float(source.weight));
  }
  return loaded;
}

}  // namespace bumblebee::cli
