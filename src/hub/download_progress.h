// How far the files of a download are, written by its threads and read by the one that shows it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>

#include "hub/download.h"

namespace bumblebee::hub {

class DownloadProgress {
 public:
  struct Entry {
    std::string path;
    uint64_t total;
    std::atomic<uint64_t> done{0};
    enum class State : uint8_t { waiting, active, finished };
    std::atomic<State> state{State::waiting};
    Entry(std::string p, uint64_t t) : path(std::move(p)), total(t) {}
  };

  /// Before the threads start.
  Entry& add(std::string path, uint64_t total) {
    total_ += total;
    return entries_.emplace_back(std::move(path), total);
  }
  /// When no entry is added any more.
  void open() { ready_ = true; }

  Progress read() const {
    Progress progress;
    if (!ready_) return progress;
    progress.total = total_;
    progress.files_total = int(entries_.size());
    for (const Entry& entry : entries_) {
      const Entry::State state = entry.state;
      const uint64_t done = state == Entry::State::finished ? entry.total : entry.done.load();
      progress.done += done;
      if (state == Entry::State::finished) ++progress.files_done;
      if (state == Entry::State::active) progress.active.push_back({entry.path, done, entry.total});
    }
    return progress;
  }

 private:
  std::deque<Entry> entries_;  // addresses stay
  uint64_t total_ = 0;
  std::atomic<bool> ready_{false};
};

}  // namespace bumblebee::hub
