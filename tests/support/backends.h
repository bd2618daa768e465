// Every way in which this machine can run operations: backends, their instruction sets, precisions and numbers of
// threads.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/registry.h"

namespace bumblebee::testing_support {

struct Target {
  std::string backend;
  BackendOptions options;

  /// "cpu_avx2_fast_3threads"
  std::string name() const {
    std::string text = backend + "_" + options.instruction_set + (options.fast ? "_fast" : "_exact");
    return options.threads > 1 ? text + "_" + std::to_string(options.threads) + "threads" : text;
  }
  std::unique_ptr<Backend> create() const { return require_device(backend, {}).entry->create(options); }
};

inline std::unique_ptr<Backend> create_reference() { return require_device("ref", {}).entry->create({}); }

/// Every backend but the reference that is there, with every instruction set, on one thread; of the host's, the best one
/// also on three, which divides nothing evenly.
inline std::vector<Target> targets() {
  std::vector<Target> list;
  for (const BackendEntry& entry : backends()) {
    if (entry.name == "ref" || entry.name == "replay" || !entry.absent(0).empty()) continue;
    const std::vector<std::string> sets = entry.instruction_sets(0);
    for (const bool fast : {false, true}) {
      for (const std::string& set : sets)
        list.push_back({std::string(entry.name), {.threads = 1, .fast = fast, .instruction_set = set}});
      if (!sets.empty() && !entry.own_memory)
        list.push_back({std::string(entry.name), {.threads = 3, .fast = fast, .instruction_set = sets.front()}});
    }
  }
  return list;
}

/// Those of them that differ in the instruction set or the precision.
inline std::vector<Target> targets_of_one_thread() {
  std::vector<Target> list = targets();
  std::erase_if(list, [](const Target& target) { return target.options.threads != 1; });
  return list;
}

/// Whether a backend has derivatives; says so where it has not.
inline bool can_train(const std::string& backend) {
  static std::map<std::string, bool> known;
  const auto [at, fresh] = known.try_emplace(backend);
  if (fresh) at->second = require_device(backend, {}).entry->create({.threads = 1, .instruction_set = {}})->stream().grad_ops() != nullptr;
  if (fresh && !at->second) std::printf("not run: %s: derivatives\n", backend.c_str());
  return at->second;
}

/// Those of `list` that can train.
inline std::vector<Target> training(std::vector<Target> list) {
  std::erase_if(list, [](const Target& target) { return !can_train(target.backend); });
  return list;
}

}  // namespace bumblebee::testing_support
