// Reads sysfs. These files come from the kernel, but also from containers that hide or fake them: every number is
// bounded, and nothing that is missing is an error.
#include "base/topology.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <string_view>
#include <thread>
#include <tuple>

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxCpus = 1 << 14, kMaxNodes = 1 << 10;
constexpr size_t kMaxFile = 1 << 16;

/// The text of a small file; empty when it cannot be read. (Sizes that sysfs reports are not those of the text.)
std::string text_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxFile, '\0');
  file.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(std::max<std::streamsize>(file.gcount(), 0)));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\0')) text.pop_back();
  return text;
}

std::optional<long> number(std::string_view text) {
  long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Calls body for every piece of `text` between separators.
template <class Body>
void each_piece(std::string_view text, char separator, Body body) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0) body(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

/// "0-3,8" as numbers below `limit`, ascending; pieces that make no sense are skipped.
std::vector<int> list_of(std::string_view text, int limit) {
  std::set<int> found;
  each_piece(text, ',', [&](std::string_view piece) {
    const size_t dash = piece.find('-');
    const auto first = number(piece.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : number(piece.substr(dash + 1));
    if (!first || !last || *first < 0) return;
    for (long i = *first; i <= std::min<long>(*last, limit - 1); ++i) found.insert(int(i));
  });
  return {found.begin(), found.end()};
}

bool has(const std::vector<int>& sorted, int value) { return std::binary_search(sorted.begin(), sorted.end(), value); }

// ---- nodes ----

struct Nodes {
  std::map<int, int> of_cpu;
  std::map<int, int> memory_of;  // node -> nearest node with memory
  int lowest = 0;
};

/// The nearest of `with_memory` to the node at place `index` of `online`: distances stand in that order.
int nearest(const fs::path& folder, int node, const std::vector<int>& online, const std::vector<int>& with_memory) {
  if (with_memory.empty() || has(with_memory, node)) return node;
  std::vector<long> distances;
  each_piece(text_of(folder / ("node" + std::to_string(node)) / "distance"), ' ',
             [&](std::string_view piece) { distances.push_back(number(piece).value_or(1 << 20)); });
  int best = with_memory.front();
  long least = 1 << 30;
  for (size_t i = 0; i < online.size() && i < distances.size(); ++i) {
    if (!has(with_memory, online[i]) || distances[i] >= least) continue;
    least = distances[i];
    best = online[i];
  }
  return best;
}

Nodes read_nodes(const fs::path& folder) {
  Nodes nodes;
  const std::vector<int> online = list_of(text_of(folder / "online"), kMaxNodes);
  std::vector<int> with_memory = list_of(text_of(folder / "has_memory"), kMaxNodes);
  if (with_memory.empty()) with_memory = list_of(text_of(folder / "has_normal_memory"), kMaxNodes);
  for (int node : online) {
    for (int cpu : list_of(text_of(folder / ("node" + std::to_string(node)) / "cpulist"), kMaxCpus))
      nodes.of_cpu.emplace(cpu, node);
    nodes.memory_of[node] = nearest(folder, node, online, with_memory);
  }
  if (!online.empty()) nodes.lowest = online.front();
  return nodes;
}

// ---- processors ----

std::vector<int> siblings_of(const fs::path& cpu) {
  std::vector<int> found = list_of(text_of(cpu / "topology" / "core_cpus_list"), kMaxCpus);
  if (found.empty()) found = list_of(text_of(cpu / "topology" / "thread_siblings_list"), kMaxCpus);
  return found;
}

/// In units of its own kind: only ratios count, and only when every processor states the same kind.
long speed_of(const fs::path& cpu, const char* file) { return std::max(0L, number(text_of(cpu / file)).value_or(0)); }

void read_speeds(const fs::path& folder, std::vector<Cpu>& cpus) {
  for (const char* file : {"cpu_capacity", "cpufreq/cpuinfo_max_freq"}) {
    std::vector<long> speeds;
    for (const Cpu& cpu : cpus) speeds.push_back(speed_of(folder / ("cpu" + std::to_string(cpu.id)), file));
    const auto [least, most] = std::minmax_element(speeds.begin(), speeds.end());
    if (*least <= 0 || *least == *most) continue;
    for (size_t i = 0; i < cpus.size(); ++i) cpus[i].speed = int(std::ceil(10.0 * double(speeds[i]) / double(*most)));
    return;
  }
}

// ---- control groups ----

std::optional<double> ratio(std::string_view quota, std::string_view period) {
  const auto q = number(quota), p = number(period);
  if (!q || !p || *q <= 0 || *p <= 0) return std::nullopt;
  return double(*q) / double(*p);
}

/// The least quota from the group at `path` up to the root of its tree, which a container may show at another depth.
std::optional<double> quota_under(const fs::path& mount, std::string path, bool second_version) {
  std::optional<double> least;
  for (;;) {
    // A path with ".." lies outside of what this process may see; its groups' limits are not known.
    const fs::path group = path.find("..") == std::string::npos ? mount / fs::path(path).relative_path() : mount;
    std::optional<double> quota;
    if (second_version) {
      const std::string text = text_of(group / "cpu.max");  // "200000 100000", or "max 100000"
      const size_t space = text.find(' ');
      if (space != std::string::npos)
        quota = ratio(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1));
    } else {
      quota = ratio(text_of(group / "cpu.cfs_quota_us"), text_of(group / "cpu.cfs_period_us"));
    }
    if (quota) least = std::min(least.value_or(*quota), *quota);
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return least;
    path.resize(slash);
  }
}

std::optional<double> read_quota(const fs::path& root) {
  const fs::path mount = root / "sys/fs/cgroup";
  std::optional<double> least;
  const auto take = [&](std::optional<double> quota) {
    if (quota) least = std::min(least.value_or(*quota), *quota);
  };
  bool any = false;
  each_piece(text_of(root / "proc/self/cgroup"), '\n',
             [&](std::string_view line) {  // "4:cpu,cpuacct:/path", "0::/path"
               const size_t first = line.find(':');
               const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
               if (second == std::string_view::npos) return;
               const std::string_view controllers = line.substr(first + 1, second - first - 1);
               const std::string path(line.substr(second + 1));
               any = true;
               if (controllers.empty()) {
                 for (const fs::path& tree : {mount, mount / "unified"}) take(quota_under(tree, path, true));
               }
               bool cpu = false;
               each_piece(controllers, ',', [&](std::string_view name) { cpu = cpu || name == "cpu"; });
               if (!cpu) return;
               for (const fs::path& tree : {mount / controllers, mount / "cpu"}) take(quota_under(tree, path, false));
             });
  if (!any) take(quota_under(mount, "", true));
  return least;
}

}  // namespace

int Topology::cores() const {
  int last = -1;
  for (const Cpu& cpu : cpus) last = std::max(last, cpu.core);
  return last + 1;
}

std::vector<int> Topology::nodes() const {
  std::set<int> found;
  for (const Cpu& cpu : cpus) found.insert(cpu.node);
  return {found.begin(), found.end()};
}

Topology read_topology(const fs::path& root, std::span<const int> allowed) {
  const fs::path folder = root / "sys/devices/system/cpu";
  const std::vector<int> online = list_of(text_of(folder / "online"), kMaxCpus);
  const Nodes nodes = read_nodes(root / "sys/devices/system/node");

  std::set<int> ids;
  for (int id : allowed) {
    if (id >= 0 && id < kMaxCpus && (online.empty() || has(online, id))) ids.insert(id);
  }
  if (ids.empty()) {  // a tree that contradicts the mask: the mask is what the system will hold us to
    for (int id : allowed) ids.insert(std::clamp(id, 0, kMaxCpus - 1));
  }
  if (ids.empty()) ids.insert(0);

  Topology topology;
  topology.cpu_quota = read_quota(root);
  std::map<int, int> core_of;  // lowest allowed sibling -> core
  for (int id : ids) {
    Cpu cpu;
    cpu.id = id;
    int lowest = id;
    for (int sibling : siblings_of(folder / ("cpu" + std::to_string(id)))) {
      if (ids.count(sibling) != 0) lowest = std::min(lowest, sibling);
    }
    cpu.core = core_of.emplace(lowest, int(core_of.size())).first->second;
    const auto node = nodes.of_cpu.find(id);
    cpu.node = node == nodes.of_cpu.end() ? nodes.lowest : node->second;
    const auto memory = nodes.memory_of.find(cpu.node);
    cpu.memory_node = memory == nodes.memory_of.end() ? cpu.node : memory->second;
    topology.cpus.push_back(cpu);
  }
  read_speeds(folder, topology.cpus);
  return topology;
}

std::vector<int> allowed_cpus() {
  std::vector<int> allowed;
  for (int capacity = 1024; capacity <= kMaxCpus; capacity *= 4) {  // grows until the kernel's mask fits
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(capacity);
    CPU_ZERO_S(size, set);
    if (sched_getaffinity(0, size, set) == 0) {
      for (int i = 0; i < capacity; ++i) {
        if (CPU_ISSET_S(i, size, set)) allowed.push_back(i);
      }
    }
    CPU_FREE(set);
    if (!allowed.empty()) return allowed;
  }
  for (int i = 0; i < std::max(1, int(std::thread::hardware_concurrency())); ++i) allowed.push_back(i);
  return allowed;
}

Topology this_machine() { return read_topology("/", allowed_cpus()); }

int default_threads(const Topology& topology) {
  std::map<int, int> speed_of_core;
  for (const Cpu& cpu : topology.cpus) speed_of_core[cpu.core] = std::max(speed_of_core[cpu.core], cpu.speed);
  std::map<int, int, std::greater<>> cores_of_speed;
  for (const auto& [core, speed] : speed_of_core) ++cores_of_speed[speed];
  int count = 0, best = 1, best_pace = 0;
  for (const auto& [speed, cores] : cores_of_speed) {
    count += cores;
    if (count * speed <= best_pace) continue;
    best = count;
    best_pace = count * speed;
  }
  if (topology.cpu_quota) best = std::min(best, int(std::clamp(std::floor(*topology.cpu_quota), 1.0, 1e6)));
  return best;
}

namespace {

/// Processors in the order in which threads take them.
std::vector<Cpu> by_preference(const Topology& topology) {
  struct Ranked {
    Cpu cpu;
    int sibling;  // how many hardware threads of its core come before it
    int in_node;  // how many of its rank come before it on its node
  };
  std::vector<Ranked> ranked;
  std::map<int, int> seen_of_core;
  std::map<std::tuple<int, int, int>, int> seen_of_node;
  for (const Cpu& cpu : topology.cpus) {
    const int sibling = seen_of_core[cpu.core]++;
    ranked.push_back({cpu, sibling, seen_of_node[{sibling, cpu.speed, cpu.node}]++});
  }
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    return std::tuple(a.sibling, -a.cpu.speed, a.in_node, a.cpu.node, a.cpu.id) <
           std::tuple(b.sibling, -b.cpu.speed, b.in_node, b.cpu.node, b.cpu.id);
  });
  std::vector<Cpu> order;
  for (const Ranked& r : ranked) order.push_back(r.cpu);
  return order;
}

}  // namespace

ThreadPlan plan_threads(const Topology& topology, int threads, Pin pin) {
  const int count = threads > 0 ? threads : default_threads(topology);
  const std::vector<Cpu> order = by_preference(topology);
  std::vector<Cpu> places;
  for (int i = 0; i < count; ++i) places.push_back(order[size_t(i) % order.size()]);
  std::stable_sort(places.begin(), places.end(), [](const Cpu& a, const Cpu& b) {
    return std::tuple(a.memory_node, a.node) < std::tuple(b.memory_node, b.node);
  });

  ThreadPlan plan;
  for (const Cpu& place : places) {
    if (plan.nodes.empty() || plan.nodes.back().node != place.memory_node)
      plan.nodes.push_back({.node = place.memory_node, .first = plan.threads(), .last = plan.threads()});
    plan.cpus.push_back(place.id);
    plan.nodes.back().last = plan.threads();
  }
  plan.crowded = size_t(count) > topology.cpus.size() || (topology.cpu_quota && count > *topology.cpu_quota);

  plan.bound.resize(places.size());
  if (pin == Pin::none) {
    plan.reason = "as asked";
  } else if (size_t(count) > topology.cpus.size()) {
    plan.reason = "more threads than processors";
  } else if (pin == Pin::cores) {
    for (size_t i = 1; i < places.size(); ++i) plan.bound[i] = {places[i].id};
    plan.reason = "one processor per worker, as asked";
  } else if (plan.nodes.size() == 1) {
    plan.reason = "one memory node";
  } else {
    for (size_t i = 1; i < places.size(); ++i) {
      for (const Cpu& cpu : topology.cpus) {
        if (cpu.node == places[i].node) plan.bound[i].push_back(cpu.id);
      }
    }
    plan.reason = "each worker on the processors of its memory node";
  }
  return plan;
}

}  // namespace bumblebee
