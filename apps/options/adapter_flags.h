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

/// Reads the adapters, in order; nothing is packed yet. Throws UsageError for what is no strength.
std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common);

}  // namespace bumblebee::cli
