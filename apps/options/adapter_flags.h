// Flags that name adapters, and loading them.
#pragma once

#include <string>
#include <vector>

#include "bumblebee/bumblebee.h"
#include "options/common.h"

namespace bumblebee::cli {

struct AdapterFlags {
  std::vector<std::string> adapters;  // as AdapterSource::parse() takes them
};

void add_adapter_flags(Parser& verb, AdapterFlags& flags);

/// On standard error, where the only adapter that is used was trained on top of others; empty `on_top_of`: it was not.
void note_if_alone(size_t adapters, const std::string& name, const std::string& on_top_of);

/// Reads the adapters, in order; nothing is packed yet. Throws UsageError for what is no strength.
std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common);

}  // namespace bumblebee::cli
