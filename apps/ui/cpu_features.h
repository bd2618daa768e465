// Processor features that matter to the kernels, as the operating system lets this process use them.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace bumblebee::cli {

/// Name and whether it is there, in the order of their age.
std::vector<std::pair<std::string, bool>> cpu_features();

}  // namespace bumblebee::cli
