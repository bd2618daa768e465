// What the system was told about a page of memory.
#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace bumblebee::testing_support {

/// The flags that /proc/self/smaps shows for the mapping of `p`: " hg " where huge pages are wished for, " nh " where
/// they are not. Empty where the system has no huge pages, or does not say.
inline std::string page_flags(const void* p) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) return "";
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, last = 0;
    char dash = 0;
    std::istringstream range(line);
    if (range >> std::hex >> first >> dash >> last && dash == '-') {
      inside = reinterpret_cast<uintptr_t>(p) >= first && reinterpret_cast<uintptr_t>(p) < last;
    } else if (inside && line.rfind("VmFlags:", 0) == 0) {
      return line.substr(8) + " ";
    }
  }
  return "";
}

}  // namespace bumblebee::testing_support
