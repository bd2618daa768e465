// --adapter, on every verb that runs a model.
#include "options/adapter_flags.h"

#include <cstdio>

#include "options/adapter_source.h"
#include "options/hub_source.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

void add_adapter_flags(Parser& verb, AdapterFlags& flags) {
  verb.add_option("--adapter", flags.adapters,
                  "An adapter of mlx-lm or PEFT, with a weight (1: as trained) or its scale. Several are composed")
      ->allow_extra_args(false)
      ->option_text("SRC[:WEIGHT|:scale=X]")
      ->group("Model");
}

void note_if_alone(size_t adapters, const std::string& name, const std::string& on_top_of) {
  if (adapters != 1 || on_top_of.empty()) return;
  std::fprintf(stderr, "note: %s was trained on top of %s; without that it is not what was trained\n",
               one_line(name).c_str(), one_line(on_top_of).c_str());
}

std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common) {
  std::vector<WeightedAdapter> loaded;
  for (const std::string& text : flags.adapters) {
    const AdapterSource source = AdapterSource::parse(text);
    loaded.emplace_back(load_adapter(hub_source(source.source, common), {.scale = source.scale, .name = ""}),
                        float(source.weight));
  }
  for (const WeightedAdapter& one : loaded)
    note_if_alone(loaded.size(), one.adapter.info().name, one.adapter.info().on_top_of);
  return loaded;
}

}  // namespace bumblebee::cli
