// The Hugging Face Hub and its cache on this machine, which every tool shares: downloading ahead of use, and looking
// after what is there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "bumblebee/repository.h"

namespace bumblebee {

struct PullOptions {
  HubOptions hub;
  /// Patterns of files as Python's fnmatch has them ("*.gguf", "onnx/*"). None: what loading a model or an adapter
  /// needs (safetensors, json, tokenizer and template files).
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  int workers = 8;  // files at a time
};

struct PullResult {
  std::filesystem::path directory;  // of the snapshot, or of the folder in it
  std::string commit;               // 40 hexadecimal digits
  int files = 0, fetched_files = 0;
  uint64_t bytes = 0, fetched_bytes = 0;  // of all files; received now
  /// Not empty when the Hub did not answer, or may not be asked, and the cache's whole snapshot is used instead: why.
  std::string stale;
};

/// The id in "org/name[/folder][@revision]"; a folder and a revision go to `options`. Throws Error(bad_request) for
/// anything else.
std::string parse_hub_source(const std::string& source, HubOptions& options);

/// Asks what the revision stands for now and downloads what the cache lacks of it. A file gets its name only when its
/// size and hash are right; an interrupted download goes on where it was. From any thread and process at once. Throws
/// Error: `not_found` (no such repository, revision or file), `forbidden` (gated, with where to accept its terms;
/// private, or the token is not good), `network` (the Hub cannot be reached or answers with failures), `bad_file` (a
/// list of files that is not to be trusted, content that does not match its hash, a disk that is full or not writable,
/// files that are absent offline), `bad_request` (an id, revision or setting that is none), `cancelled`.
PullResult pull(const std::string& id, const PullOptions& options = {});

struct CachedRevision {
  std::string commit;
  std::vector<std::string> refs;  // branches and tags that led here when they were last asked for
  uint64_t bytes = 0;             // of its files, also of those that it shares
  int files = 0;
  int64_t modified = 0;  // seconds since 1970
};

struct CachedRepository {
  std::string type;  // "model", "dataset", "space"
  std::string id;
  std::filesystem::path folder;
  uint64_t bytes = 0;          // on disk
  uint64_t partial_bytes = 0;  // of those, interrupted downloads
  int files = 0;
  int64_t modified = 0;
  std::vector<CachedRevision> revisions;
};

struct CacheListing {
  std::filesystem::path directory;
  uint64_t bytes = 0;
  std::vector<CachedRepository> repositories;
  std::vector<std::string> warnings;  // folders that are not understood, and why
};

/// The directory that HubOptions::cache_dir names, or the environment's.
std::filesystem::path hub_cache(const std::filesystem::path& cache_dir = {});

/// What is in the cache; empty when it does not exist.
CacheListing list_cache(const std::filesystem::path& cache_dir = {});

/// Whether a call removes, or only says what it would remove.
enum class CacheAct : uint8_t { report, remove };

struct CacheRemoval {
  std::vector<std::string> removed;  // "org/name", "org/name@commit", partial files
  uint64_t bytes = 0;
};

/// Removes repositories ("org/name", "dataset/org/name") and single revisions ("org/name@revision", or a commit).
/// Throws Error(not_found) naming a target that is not there, before anything is removed.
CacheRemoval remove_cached(const std::vector<std::string>& targets, CacheAct act,
                           const std::filesystem::path& cache_dir = {});

/// Removes revisions that no branch or tag leads to, and partial files that no process writes to.
CacheRemoval prune_cache(CacheAct act, const std::filesystem::path& cache_dir = {});

struct CacheVerification {
  std::string id, commit;
  int files = 0;  // hashed
  uint64_t bytes = 0;
  std::vector<std::string> broken;        // "path: sha256 expected ..., got ..."
  std::vector<std::string> missing;       // linked to nothing
  std::vector<std::string> unverifiable;  // no hash is known
};

/// Hashes the files of a snapshot and compares; needs no network. `progress` returns false to cancel. Throws
/// Error(not_found) when the repository or revision is not in the cache.
CacheVerification verify_cached(const std::string& id, const std::string& revision = "main",
                                const std::filesystem::path& cache_dir = {},
                                const std::function<bool(uint64_t done, uint64_t total)>& progress = {});

}  // namespace bumblebee
