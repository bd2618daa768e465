// Flags that name adapters, and loading them.
#pragma once

#include <string>
#include <vector>

#include "bumblebee/bumblebee.h"
#include "options/common.h"

namespace bumblebee::cli {

struct AdapterFlags {
  std::vector<std::string> adapters;  // SRC or SRC:SCALE
};

void add_adapter_flags(Parser& verb, AdapterFlags& flags);

/// Reads the adapters, in order; nothing is packed yet. Throws UsageError for a scale that is no number.
std::vector<WeightedAdapter> load_adapters(const AdapterFlags& flags, const CommonFlags& common);

}  // namespace bumblebee::cli
