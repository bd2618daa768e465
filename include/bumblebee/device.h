// What this machine offers: devices, processor features, and the kernels that would be chosen.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bumblebee {

/// One device that can run models.
struct DeviceInfo {
  std::string name;         // what ModelOptions::device takes: "cpu", "cuda" ("cuda:1" of several), "ref"
  std::string description;  // for people: processor name and kernel set
  std::string kernels;      // the instruction set that a model would use now, for instance "avx512_vnni"
  std::vector<std::string> kernels_available;
  int threads = 0;
  uint64_t memory_bytes = 0;  // that this process may use: the machine's, or what a control group allows
  uint64_t free_bytes = 0;    // of them, what nobody has taken now
  bool own_memory = false;    // weights are copied to it, rather than used in their mapped files
};

/// Where the library's own threads run. automatic: each on the processors of its memory node when there are several
/// nodes, else wherever the system puts it; cores: each on a processor of its own. The thread that calls is never
/// bound.
enum class Pinning : uint8_t { automatic, none, cores };

/// The processors that this process may use, and what a model with so many threads makes of them.
struct ThreadingInfo {
  struct Node {
    int id = 0;             // as the system numbers it
    std::vector<int> cpus;  // of those this process may use
    int cores = 0;
    int threads = 0;  // of the model
  };
  std::vector<Node> nodes;
  int cpus = 0, cores = 0;
  double cpu_quota = 0;  // processors' worth of time that a container grants; 0: no limit
  int threads = 0;
  std::string pinning;    // for people: whether and why threads are bound
  std::string placement;  // for people: whether weights are placed by node, and whether the system allows it
};

/// Looks at the machine as it is now; starts and ends the threads to see whether they can be bound.
ThreadingInfo threading(int threads = 0, Pinning pinning = Pinning::automatic);

/// Devices of this build on this machine, the one that is used by default first.
std::vector<DeviceInfo> devices();

/// A kind of device that this build knows and this machine has not.
struct AbsentDevice {
  std::string name;
  std::string reason;  // for people
};
std::vector<AbsentDevice> absent_devices();

/// Bytes per second of a plain parallel read of memory with `threads` threads (0: all), measured now; takes about a
/// second.
double measure_read_bandwidth(int threads = 0);

}  // namespace bumblebee
