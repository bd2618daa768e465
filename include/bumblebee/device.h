// What this machine offers: devices, processor features, and the kernels that would be chosen.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bumblebee {

/// One device that can run models.
struct DeviceInfo {
  std::string name;         // what ModelOptions::device takes: "cpu", "ref", ...
  std::string description;  // for people: processor name and kernel set
  std::string kernels;      // the instruction set that a model would use now, for instance "avx512_vnni"
  std::vector<std::string> kernels_available;
  int threads = 0;
  uint64_t memory_bytes = 0;
};

/// Devices of this build on this machine, the one that is used by default first.
std::vector<DeviceInfo> devices();

/// Bytes per second of a plain parallel read of memory with `threads` threads (0: all), measured now; takes about a
/// second.
double measure_read_bandwidth(int threads = 0);

}  // namespace bumblebee
