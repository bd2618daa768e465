// Every way in which this machine can run operations: backends, their instruction sets, precisions and numbers of
// threads.
#pragma once

#include <algorithm>
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

/// Every backend but the reference that is there, with every instruction set, on one thread; of the host's, the best
/// one also on three, which divides nothing evenly.
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

/// `names` and the cards of this machine.
inline std::vector<std::string> with_cards(std::vector<std::string> names) {
  for (const BackendEntry& entry : backends()) {
    if (entry.own_memory && entry.absent(0).empty()) names.emplace_back(entry.name);
  }
  return names;
}

/// Whether it computes in f64 and keeps every type of cache in it.
inline bool is_reference(const Target& target) { return target.backend == "ref" || target.backend == "replay"; }

/// Of results of whole models whose rows took different kernels, relative to their root mean square; 0: none do. On
/// cards in fast precision, steps of more than 32 rows multiply with x as f16 (those of up to 64 with sums in another
/// order, which is far less), smaller ones with x as 15 bits of the largest of 64, which is about 3 of their root mean
/// square. The first is off by a step of 2^-11 to 2^-10 of each x and as much of each weight, whose roundings have a
/// deviation of 1/sqrt(12) of it, 2^-12.3 relative, 2^-11.8 together; the second by a step of 2·3·2^-15, 2^-14.2. Their
/// attention has probabilities of bf16: 2^-9.3 of each, which average over the tokens that are seen; a few share a
/// row's, so that half of it is left. As with narrow caches, scores move most, by that of q and of k times the largest,
/// which is about 30 in tiny models, times their `sharpness`.
inline double between_kinds_of_rows(const Target& target, int layers, double sharpness = 1) {
  return target.backend == "cuda" && target.options.fast ? layers * (2 * 30 * sharpness * 0x1.2p-12 + 0x1p-10) : 0;
}

/// Whether a backend has derivatives; says so where it has not.
inline bool can_train(const std::string& backend) {
  static std::map<std::string, bool> known;
  const auto [at, fresh] = known.try_emplace(backend);
  if (fresh)
    at->second =
        require_device(backend, {}).entry->create({.threads = 1, .instruction_set = {}})->stream().grad_ops() !=
        nullptr;
  if (fresh && !at->second) std::printf("not run: %s: derivatives\n", backend.c_str());
  return at->second;
}

/// Whether a backend lacks an operation that only some models need.
inline bool lacks(const std::string& backend, Operation operation) {
  const std::vector<Operation>& lacking = require_device(backend, {}).entry->lacking;
  return std::find(lacking.begin(), lacking.end(), operation) != lacking.end();
}

/// Whether a backend has weights of all these formats.
inline bool has_formats(const std::string& backend, const std::vector<Format>& formats) {
  const BackendEntry& entry = *require_device(backend, {}).entry;
  return std::all_of(formats.begin(), formats.end(), [&](const Format& f) { return entry.lacks(0, f).empty(); });
}

/// Those of `list` that can train.
inline std::vector<Target> training(std::vector<Target> list) {
  std::erase_if(list, [](const Target& target) { return !can_train(target.backend); });
  return list;
}

}  // namespace bumblebee::testing_support
