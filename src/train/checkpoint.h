// Crash-safe snapshots of a run: directories that appear whole or not at all, each with a manifest of its files'
// hashes. Knows names and bytes; what a snapshot means is trainer.h's.
//
//   ROOT/step-0000200/{tensors.safetensors, state.json, manifest.json}   ROOT/latest   ROOT/lock
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace bumblebee::train {

struct Snapshot {
  int iteration = 0;
  Json state;
  std::map<std::string, std::vector<float>> tensors;
};

class CheckpointStore {
 public:
  /// Creates `root` and takes its lock; leftovers of a crash are removed. Keeps the newest `keep` (at least 1). Throws
  /// Error(bad_request) when another process holds it.
  CheckpointStore(std::filesystem::path root, int keep);
  ~CheckpointStore();
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;

  bool empty() const { return steps().empty(); }
  void clear();

  /// Written aside, synced, renamed, synced; then `latest`; then those beyond `keep` go. A crash at any point leaves
  /// every snapshot that was there before, until the new one has its name. Returns its directory.
  std::filesystem::path save(const Snapshot& snapshot);

  /// The newest, checked against its manifest; nullopt when there is none. Throws Error(bad_file) naming the file that
  /// was changed or is missing: an older one would train other bits without a word.
  std::optional<Snapshot> newest() const;

 private:
  std::vector<int> steps() const;  // ascending
  std::filesystem::path directory_of(int iteration) const;

  std::filesystem::path root_;
  int keep_;
  int lock_ = -1;
};

}  // namespace bumblebee::train
