// What can run models here, for `doctor` and for messages.
#include "bumblebee/device.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <set>

#include "api/pinning.h"
#include "backend/registry.h"
#include "base/bandwidth.h"
#include "base/error.h"
#include "base/numa.h"
#include "base/thread_pool.h"

namespace bumblebee {

namespace {

/// The set that a backend chooses by itself: the one BB_CPU names, else the best.
std::string chosen_kernels(const std::vector<std::string>& available) {
  if (available.empty()) return "";
  const char* wanted = std::getenv("BB_CPU");
  const bool there = wanted != nullptr && std::find(available.begin(), available.end(), wanted) != available.end();
  return there ? wanted : available.front();
}

std::string describe_pinning(const ThreadPool& pool) {
  const ThreadPlan& plan = pool.plan();
  const bool bound = std::any_of(plan.bound.begin(), plan.bound.end(), [](const auto& cpus) { return !cpus.empty(); });
  std::string text = cat(bound ? "bound" : "none", " (", plan.reason, ")");
  if (pool.refused_bindings() > 0) text += cat("; the system refused ", pool.refused_bindings());
  return text;
}

/// Tries on every node what loading a model would do there.
std::string describe_placement(const ThreadPlan& plan) {
  if (plan.nodes.size() < 2) return "none (one memory node)";
  PlacedPages placed;
  for (const NodeThreads& node : plan.nodes) placed += try_placement(node.node);
  if (placed.on_node == placed.pages) return "weights go to the node whose threads read them";
  return "refused by the system (" + to_string(placed) + "): weights stay where they were read first";
}

}  // namespace

ThreadingInfo threading(int threads, Pinning pinning) {
  const Topology topology = this_machine();
  const ThreadPool pool(plan_threads(topology, threads, api::pin_of(pinning)));
  ThreadingInfo info;
  for (int id : topology.nodes()) {
    ThreadingInfo::Node node;
    node.id = id;
    std::set<int> cores;
    for (const Cpu& cpu : topology.cpus) {
      if (cpu.node != id) continue;
      node.cpus.push_back(cpu.id);
      cores.insert(cpu.core);
    }
    node.cores = int(cores.size());
    const auto here = [&](int cpu) { return std::find(node.cpus.begin(), node.cpus.end(), cpu) != node.cpus.end(); };
    node.threads = int(std::count_if(pool.plan().cpus.begin(), pool.plan().cpus.end(), here));
    info.nodes.push_back(std::move(node));
  }
  info.cpus = int(topology.cpus.size());
  info.cores = topology.cores();
  info.cpu_quota = topology.cpu_quota.value_or(0);
  info.threads = pool.threads();
  info.pinning = describe_pinning(pool);
  info.placement = describe_placement(pool.plan());
  return info;
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> result;
  for (const BackendEntry& entry : backends()) {
    const int count = entry.count();
    for (int device = 0; device < count; ++device) {
      if (!entry.absent(device).empty()) continue;
      DeviceInfo info;
      info.name = count == 1 ? std::string(entry.name) : cat(entry.name, ":", device);
      info.description = entry.describe(device);
      info.kernels_available = entry.instruction_sets(device);
      info.kernels = chosen_kernels(info.kernels_available);
      info.threads = available_cores();
      info.memory_bytes = entry.memory_bytes(device);
      info.free_bytes = entry.free_bytes(device);
      info.own_memory = entry.own_memory;
      result.push_back(std::move(info));
    }
  }
  return result;
}

std::vector<AbsentDevice> absent_devices() {
  std::vector<AbsentDevice> result;
  for (const BackendEntry& entry : backends()) {
    if (std::string reason = entry.absent(0); !reason.empty())
      result.push_back({std::string(entry.name), std::move(reason)});
  }
  return result;
}

double measure_read_bandwidth(int threads) { return read_bandwidth(threads); }

}  // namespace bumblebee
