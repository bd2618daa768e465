// Which processors this process may run on and how they lie: cores and their hardware threads, nodes of memory, fast
// and slow cores, and the share of processor time that a container grants. From it, how many threads to start and
// where.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace bumblebee {

/// A logical processor that this process may run on.
struct Cpu {
  int id = 0;
  int core = 0;         // hardware threads of one core share this number; they are numbered from 0 without gaps
  int node = 0;         // of memory, as the system numbers it
  int memory_node = 0;  // the nearest node that has memory: `node` itself, but for nodes without any
  int speed = 10;       // tenths of the fastest core's speed, rounded up: hybrid processors have several classes
};

struct Topology {
  std::vector<Cpu> cpus;            // by id; never empty
  std::optional<double> cpu_quota;  // processors' worth of time that the control group grants

  int cores() const;
  /// Nodes that the processors lie on, ascending.
  std::vector<int> nodes() const;
};

/// Reads the trees that Linux shows under `root` (sys/devices/system/{cpu,node}, proc/self/cgroup, sys/fs/cgroup).
/// `allowed` are the processors of the affinity mask. Whatever is missing or makes no sense is replaced by the plain
/// case: a processor without a core is a core, one without a node is on the lowest node, no quota is unlimited.
Topology read_topology(const std::filesystem::path& root, std::span<const int> allowed);

/// Processors of the calling thread's affinity mask; the number that the system reports when there is no mask.
std::vector<int> allowed_cpus();

/// This machine as it is now.
Topology this_machine();

/// One thread per core, at least 1 and never more than the quota. Work is divided evenly, so the slowest thread sets
/// the pace: slow cores join when all together at their pace beat the fast ones alone.
int default_threads(const Topology& topology);

/// Where the threads of a pool belong. `automatic` keeps each worker on the processors of its node when there are
/// several nodes, and leaves everything to the system on one; `cores` gives each worker a processor of its own.
enum class Pin : unsigned char { automatic, none, cores };

/// Consecutive threads that read memory of one node.
struct NodeThreads {
  int node = 0;             // of memory
  int first = 0, last = 0;  // threads [first, last)
};

struct ThreadPlan {
  std::vector<int> cpus;           // per thread, the processor it belongs on
  std::vector<NodeThreads> nodes;  // cover all threads in order; at least one
  /// Per thread, the processors it is bound to; empty: it may run anywhere. Thread 0 is the caller's and never bound.
  std::vector<std::vector<int>> bound;
  bool crowded = false;  // more threads than processors, or than the quota: waiting threads must not spin
  std::string reason;    // of being bound or not, for people

  int threads() const { return int(cpus.size()); }
};

/// Lays `threads` (0: default_threads) out: one per core first, fast cores before slow ones, spread evenly over nodes,
/// and numbered node by node.
ThreadPlan plan_threads(const Topology& topology, int threads, Pin pin = Pin::automatic);

}  // namespace bumblebee
