// How much memory this process may use: the machine's, or less where a control group says so.
#pragma once

#include <cstdint>

namespace bumblebee {

struct HostMemory {
  uint64_t total = 0;  // bytes that may be used at all
  uint64_t free = 0;   // of them, what can still be had without swapping
};

/// Reads /proc/meminfo and the limits of this process's control groups (version 2 and 1, each level up to the root).
/// What cannot be read limits nothing.
HostMemory host_memory();

}  // namespace bumblebee
