// Files of /proc and /sys/fs/cgroup, one number each.
#include "base/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace bumblebee {
namespace {

std::optional<uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (!(file >> value)) return std::nullopt;  // "max" is no number: no limit
  return value;
}

/// "MemAvailable" of /proc/meminfo, in bytes.
std::optional<uint64_t> available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    uint64_t kib = 0;
    if (name == "MemAvailable:" && file >> kib) return kib * 1024;
    std::getline(file, name);
  }
  return std::nullopt;
}

void limit_by(const std::string& folder, const char* most, const char* used, HostMemory& memory) {
  const std::optional<uint64_t> limit = number_in(folder + most);
  if (!limit || *limit >= memory.total) return;
  memory.total = *limit;
  const uint64_t taken = number_in(folder + used).value_or(0);
  memory.free = std::min(memory.free, *limit - std::min(*limit, taken));
}

}  // namespace

HostMemory host_memory() {
  const uint64_t installed = uint64_t(::sysconf(_SC_PHYS_PAGES)) * uint64_t(::sysconf(_SC_PAGE_SIZE));
  HostMemory memory{.total = installed, .free = std::min(installed, available_memory().value_or(installed))};
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" is version 2, "4:memory:/path" version 1.
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      const std::string folder = root + (path == "/" ? "" : path) + "/";
      limit_by(folder, unified ? "memory.max" : "memory.limit_in_bytes",
               unified ? "memory.current" : "memory.usage_in_bytes", memory);
      if (path.rfind('/') == std::string::npos || path.empty()) break;
    }
  }
  return memory;
}

}  // namespace bumblebee
