// Looking after the cache: what is in it, removing, pruning, verifying. Models, datasets and spaces alike, since they
// share it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace bumblebee::hub {

struct CachedRevision {
  std::string commit;
  std::vector<std::string> refs;
  uint64_t bytes = 0;  // of its files, shared ones included
  int files = 0;
  int64_t modified = 0;  // seconds since 1970
};

struct CachedRepository {
  std::string type, id;  // "model", "org/name"
  std::filesystem::path folder;
  uint64_t bytes = 0;          // on disk, each blob once
  uint64_t partial_bytes = 0;  // of interrupted downloads
  int files = 0;
  int64_t modified = 0;
  std::vector<CachedRevision> revisions;
};

struct CacheList {
  std::filesystem::path cache;
  uint64_t bytes = 0;
  std::vector<CachedRepository> repositories;  // by id
  std::vector<std::string> warnings;           // folders that are not understood
};

CacheList list_cache(const std::filesystem::path& cache);

struct Removal {
  std::vector<std::string> what;  // "org/name" or "org/name@commit"
  uint64_t bytes = 0;             // freed, or to be freed
};

enum class Act : unsigned char { report, remove };

/// Removes repositories ("org/name", "model/org/name") and revisions ("org/name@revision", or a full commit). Blobs
/// that another revision uses stay. Throws Error(not_found) naming a target that is not in the cache, before anything
/// is removed.
Removal remove_from_cache(const std::filesystem::path& cache, const std::vector<std::string>& targets, Act act);

/// Removes revisions that no ref leads to, and partial files of interrupted downloads that nobody writes to.
Removal prune_cache(const std::filesystem::path& cache, Act act);

struct Verification {
  std::string id, commit;
  int files = 0;  // whose content was hashed
  uint64_t bytes = 0;
  std::vector<std::string> broken;        // "path: sha256 expected ..., got ..."
  std::vector<std::string> missing;       // of the kept list, and linked to nothing
  std::vector<std::string> unverifiable;  // no hash is known: no kept list, and no link to a blob
};

/// Hashes every file of a snapshot. Needs no network: the list that was kept and the names of blobs say what is right.
/// Throws Error(not_found) when the repository or revision is not in the cache.
Verification verify_cached(const std::filesystem::path& cache, const std::string& id, const std::string& revision,
                           const std::function<bool(uint64_t done, uint64_t total)>& progress = {});

}  // namespace bumblebee::hub
