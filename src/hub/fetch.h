// One blob from the Hub: locked against other processes, continued where an earlier run stopped, hashed while it
// arrives, renamed when it is right.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "hub/cache.h"
#include "hub/http.h"

namespace bumblebee::hub {

struct Fetch {
  const Settings& settings;
  const RepositoryCache& cache;
  std::string id, commit;
  std::string path;  // one that has this content
  const TreeFile& file;
  bool leftovers;                   // whether an earlier run left a part of it, as far as is known
  std::atomic<uint64_t>& done;      // bytes that are here, those of an earlier run included
  std::atomic<uint64_t>& received;  // bytes of this call are added
  std::function<bool()> stop;
};

/// Makes blobs/<etag> exist, and calls `named` while the lock is held; `fetched` tells whether it was downloaded now.
/// Throws what fail_with() throws, and Error(bad_file) for content that does not match, or a disk that does not take
/// it. Whatever arrived stays beside the blobs as "<etag>.<suffix>.incomplete" for the next run.
void fetch_blob(const Fetch& fetch, Http& http, const std::function<void(bool fetched)>& named);

}  // namespace bumblebee::hub
