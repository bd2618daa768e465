// A snapshot from the Hub into the cache: resolved once, listed once, its missing files fetched side by side, each
// verified before it gets its name. Interrupted at any moment, the next call goes on where this one was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/select.h"
#include "hub/settings.h"

namespace bumblebee::hub {

struct FileProgress {
  std::string path;
  uint64_t done = 0, total = 0;  // bytes, those of an earlier run included
};

struct Progress {
  uint64_t done = 0, total = 0;  // bytes of the files that were missing
  int files_done = 0, files_total = 0;
  std::vector<FileProgress> active;  // being fetched now
};

struct Download {
  std::string id, revision = "main";
  Selection selection;
  /// Called on the calling thread, about twenty times a second and once at the end; false cancels.
  std::function<bool(const Progress&)> progress;
};

struct Downloaded {
  std::filesystem::path snapshot;
  std::string commit;
  int files = 0;               // of the selection
  int fetched_files = 0;       // that were not in the cache
  uint64_t bytes = 0;          // of the selection
  uint64_t fetched_bytes = 0;  // received in this call
  /// Why the Hub was not asked or did not answer, when a whole snapshot of the cache is used instead; else empty.
  std::string stale;
};

/// Throws Error: `not_found`, `forbidden`, `network` (client.h), `bad_file` for a hostile list, content that is not
/// what its hash says, a full or unwritable disk (a full one before anything is fetched, as sizes are known), and for
/// files that are absent offline; `cancelled`.
Downloaded download(const Settings& settings, const Download& what);

/// The snapshot in the cache when it is whole, without asking anybody; an empty path otherwise.
std::filesystem::path cached_snapshot(const Settings& settings, const Download& what);

}  // namespace bumblebee::hub
