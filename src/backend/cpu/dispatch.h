// Which kernels this processor can run, best first, and the choice among them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/kernels.h"

namespace bumblebee::cpu {

std::vector<const Kernels*> available_kernels();
/// Names of all sets of this build, best first, whatever the processor.
std::vector<std::string> compiled_sets();
/// Those that this processor has, best first. Asks the system for nothing, so that it may yet refuse one.
std::vector<std::string> present_sets();

/// The set called `wanted`; when that is empty, the one BB_CPU names; when that is not set, the best. Throws
/// Error(device) for a set that this build or this processor does not have.
const Kernels& choose_kernels(std::string_view wanted);

/// The processor's own name, or its architecture.
std::string processor_name();

}  // namespace bumblebee::cpu
