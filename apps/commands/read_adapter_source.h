// Adapters as the commands on files read them.
#pragma once

#include "lora/merge.h"
#include "options/adapter_source.h"

namespace bumblebee::cli {

lora::Weighted read(const AdapterSource& source, const CommonFlags& common);

/// The sum of what they add, each with its weight; one of weight 1 as it is.
lora::Merged sum_of(const std::vector<lora::Weighted>& parts);

/// "applied  style: 0.5 of what was trained", a line for each that is not as it was trained.
std::string told_strengths(const std::vector<std::string>& sources);

}  // namespace bumblebee::cli
