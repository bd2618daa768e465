// Walks the folders of the cache. Removes in an order that never leaves a ref to nothing: refs, then snapshots, then
// blobs.
#include "hub/manage.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "hub/cache.h"
#include "hub/digest.h"
#include "hub/files.h"
#include "hub/lock.h"
#include "hub/names.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr std::string_view kPartial = ".incomplete";

/// A name in a snapshot.
struct Entry {
  std::string path;      // in the repository
  fs::path file;         // in the snapshot
  std::string blob;      // the hash that its link names; empty: the file itself
  int64_t bytes = -1;    // -1: linked to nothing
  int64_t modified = 0;  // seconds since 1970
};

struct Snapshot {
  std::string commit;
  std::vector<std::string> refs;
  std::vector<Entry> entries;
};

struct Folder {
  CachedRepository info;
  std::vector<Snapshot> snapshots;
};

Entry make_entry(const fs::path& root, const fs::path& file) {
  Entry entry{file.lexically_relative(root).generic_string(), file, "", -1, 0};
  std::error_code none;
  if (const fs::path target = fs::read_symlink(file, none); !none) {
    const std::string name = target.filename().string();
    if (is_sha1(name) || is_sha256(name)) entry.blob = name;
  }
  struct stat status {};
  if (::stat(file.c_str(), &status) == 0) {
    entry.bytes = int64_t(status.st_size);
    entry.modified = int64_t(status.st_mtime);
  }
  return entry;
}

std::vector<Entry> walk(const fs::path& root) {
  std::vector<Entry> entries;
  std::error_code failure;
  for (fs::recursive_directory_iterator it(root, failure), end; !failure && it != end; it.increment(failure)) {
    const fs::file_status status = it->symlink_status(failure);
    if (fs::is_regular_file(status) || fs::is_symlink(status)) entries.push_back(make_entry(root, it->path()));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.path < b.path; });
  return entries;
}

/// Names of refs by the commit that they lead to.
std::multimap<std::string, std::string> read_refs(const fs::path& folder) {
  std::multimap<std::string, std::string> refs;
  for (const Entry& entry : walk(folder / "refs")) {
    if (entry.bytes != 40 || entry.path.ends_with(".tmp")) continue;
    refs.emplace(read_text_file(entry.file, 4096), entry.path);
  }
  return refs;
}

/// Bytes of the blobs on disk, and of the partial ones among them.
void add_blobs(CachedRepository& info) {
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(info.folder / "blobs", failure)) {
    const int64_t bytes = size_of(entry.path());
    if (bytes < 0) continue;
    info.bytes += uint64_t(bytes);
    if (entry.path().filename().string().ends_with(kPartial)) info.partial_bytes += uint64_t(bytes);
  }
}

Folder read_folder(const fs::path& path, const std::string& type, const std::string& id) {
  Folder folder;
  CachedRepository& info = folder.info;
  info.type = type;
  info.id = id;
  info.folder = path;
  add_blobs(info);
  const auto refs = read_refs(path);
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(path / "snapshots", failure)) {
    const std::string commit = entry.path().filename().string();
    if (!is_sha1(commit)) continue;
    Snapshot snapshot{commit, {}, walk(entry.path())};
    const auto [first, last] = refs.equal_range(commit);
    for (auto it = first; it != last; ++it) snapshot.refs.push_back(it->second);
    std::sort(snapshot.refs.begin(), snapshot.refs.end());
    folder.snapshots.push_back(std::move(snapshot));
  }
  std::sort(folder.snapshots.begin(), folder.snapshots.end(),
            [](const Snapshot& a, const Snapshot& b) { return a.commit < b.commit; });
  std::set<std::string> paths;
  for (const Snapshot& snapshot : folder.snapshots) {
    CachedRevision revision{snapshot.commit, snapshot.refs, 0, int(snapshot.entries.size()), 0};
    for (const Entry& entry : snapshot.entries) {
      revision.bytes += uint64_t(std::max<int64_t>(0, entry.bytes));
      revision.modified = std::max(revision.modified, entry.modified);
      if (entry.blob.empty()) info.bytes += uint64_t(std::max<int64_t>(0, entry.bytes));
      paths.insert(entry.blob.empty() ? entry.file.string() : entry.blob);
    }
    info.modified = std::max(info.modified, revision.modified);
    info.revisions.push_back(std::move(revision));
  }
  info.files = int(paths.size());
  return folder;
}

/// "models--org--name" to its type and id; false for other folders.
bool parse_folder(const std::string& name, std::string& type, std::string& id) {
  for (const char* known : {"model", "dataset", "space"}) {
    const std::string start = cat(known, "s--");
    if (!name.starts_with(start) || name.size() == start.size()) continue;
    type = known;
    id = name.substr(start.size());
    for (size_t at = id.find("--"); at != std::string::npos; at = id.find("--", at + 1)) id.replace(at, 2, "/");
    return true;
  }
  return false;
}

std::vector<Folder> read_cache(const fs::path& cache, std::vector<std::string>* warnings) {
  std::vector<Folder> folders;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(cache, failure)) {
    const std::string name = entry.path().filename().string();
    std::string type, id;
    if (name.starts_with('.') || name == "CACHEDIR.TAG" || name == "version.txt") continue;
    if (!entry.is_directory(failure) || !parse_folder(name, type, id)) {
      if (warnings != nullptr) warnings->push_back(entry.path().string() + ": not a repository's folder");
      continue;
    }
    folders.push_back(read_folder(entry.path(), type, id));
  }
  std::sort(folders.begin(), folders.end(), [](const Folder& a, const Folder& b) {
    return std::tie(a.info.type, a.info.id) < std::tie(b.info.type, b.info.id);
  });
  return folders;
}

void remove_tree(const fs::path& path, Act act) {
  std::error_code failure;
  if (act == Act::report) return;
  fs::remove_all(path, failure);
  if (!failure) return;
  errno = failure.value();
  fail_system(path, "remove");
}

uint64_t remove_repository(const Folder& folder, Act act) {
  const fs::path& path = folder.info.folder;
  for (const char* part : {"refs", "trees", ".no_exist", "snapshots", "blobs"}) remove_tree(path / part, act);
  remove_tree(path, act);
  return folder.info.bytes;
}

uint64_t remove_revisions(const Folder& folder, const std::set<std::string>& commits, Act act) {
  if (commits.size() == folder.snapshots.size()) return remove_repository(folder, act);
  const fs::path& path = folder.info.folder;
  std::set<std::string> kept, gone;
  uint64_t bytes = 0;
  for (const Snapshot& snapshot : folder.snapshots) {
    const bool goes = commits.contains(snapshot.commit);
    for (const Entry& entry : snapshot.entries) {
      if (!entry.blob.empty()) (goes ? gone : kept).insert(entry.blob);
      if (goes && entry.blob.empty()) bytes += uint64_t(std::max<int64_t>(0, entry.bytes));
    }
    if (!goes) continue;
    for (const std::string& ref : snapshot.refs) remove_tree(path / "refs" / ref, act);
    remove_tree(path / "trees" / (snapshot.commit + ".json"), act);
    remove_tree(path / ".no_exist" / snapshot.commit, act);
    remove_tree(path / "snapshots" / snapshot.commit, act);
  }
  for (const std::string& blob : gone) {
    if (kept.contains(blob)) continue;
    bytes += uint64_t(std::max<int64_t>(0, size_of(path / "blobs" / blob)));
    remove_tree(path / "blobs" / blob, act);
  }
  return bytes;
}

std::string shown_id(const CachedRepository& info) {
  return info.type == "model" ? info.id : info.type + "/" + info.id;
}

/// What a target means: a folder and some of its commits. Throws Error(not_found).
std::pair<const Folder*, std::set<std::string>> find_target(const std::vector<Folder>& folders,
                                                            const std::string& target) {
  const size_t at = target.find('@');
  const std::string id = target.substr(0, at), revision = at == std::string::npos ? "" : target.substr(at + 1);
  for (const Folder& folder : folders) {
    const bool named = id == folder.info.id || id == folder.info.type + "/" + folder.info.id;
    std::set<std::string> commits;
    for (const Snapshot& snapshot : folder.snapshots) {
      const bool led = std::find(snapshot.refs.begin(), snapshot.refs.end(), revision) != snapshot.refs.end();
      if (named ? revision.empty() || led || revision == snapshot.commit : target == snapshot.commit)
        commits.insert(snapshot.commit);
    }
    if (!commits.empty() || (named && revision.empty())) return {&folder, commits};
  }
  throw Error(ErrorCode::not_found, "cache",
              cat("'", target.substr(0, 200), "' is not in the cache; 'bumblebee cache ls' lists what is"));
}

/// Whether nobody writes to a partial file: its lock can be had at once.
bool abandoned(const fs::path& cache, const std::string& folder, const std::string& etag) try {
  return FileLock(cache / ".locks" / folder / (etag + ".lock"), [] { return true; }).held();
} catch (const Error&) {
  return false;
}

}  // namespace

CacheList list_cache(const fs::path& cache) {
  CacheList list;
  list.cache = cache;
  for (Folder& folder : read_cache(cache, &list.warnings)) {
    list.bytes += folder.info.bytes;
    list.repositories.push_back(std::move(folder.info));
  }
  return list;
}

Removal remove_from_cache(const fs::path& cache, const std::vector<std::string>& targets, Act act) {
  const std::vector<Folder> folders = read_cache(cache, nullptr);
  std::map<const Folder*, std::set<std::string>> chosen;
  for (const std::string& target : targets) {
    auto [folder, commits] = find_target(folders, target);
    chosen[folder].merge(commits);
  }
  Removal removal;
  for (const auto& [folder, commits] : chosen) {
    removal.bytes += remove_revisions(*folder, commits, act);
    if (commits.size() == folder->snapshots.size()) removal.what.push_back(shown_id(folder->info));
    if (commits.size() == folder->snapshots.size()) continue;
    for (const std::string& commit : commits) removal.what.push_back(cat(shown_id(folder->info), "@", commit));
  }
  return removal;
}

Removal prune_cache(const fs::path& cache, Act act) {
  Removal removal;
  for (const Folder& folder : read_cache(cache, nullptr)) {
    // First the partial files: those of a folder that then goes are counted once, and those in use keep it.
    const fs::path blobs = folder.info.folder / "blobs";
    std::error_code failure;
    bool in_use = false;
    for (const fs::directory_entry& entry : fs::directory_iterator(blobs, failure)) {
      const std::string name = entry.path().filename().string();
      if (!name.ends_with(kPartial)) continue;
      if (!abandoned(cache, folder.info.folder.filename().string(), name.substr(0, name.find('.')))) {
        in_use = true;
        continue;
      }
      removal.bytes += uint64_t(std::max<int64_t>(0, size_of(entry.path())));
      removal.what.push_back(cat(shown_id(folder.info), ": ", name));
      remove_tree(entry.path(), act);
    }
    std::set<std::string> detached;
    for (const Snapshot& snapshot : folder.snapshots) {
      if (snapshot.refs.empty()) detached.insert(snapshot.commit);
    }
    if (detached.empty() || in_use) continue;
    for (const std::string& commit : detached) removal.what.push_back(cat(shown_id(folder.info), "@", commit));
    removal.bytes += remove_revisions(folder, detached, act);
    if (detached.size() == folder.snapshots.size()) removal.bytes -= folder.info.partial_bytes;
  }
  return removal;
}

Verification verify_cached(const fs::path& cache, const std::string& id, const std::string& revision,
                           const std::function<bool(uint64_t done, uint64_t total)>& progress) {
  const RepositoryCache repository(cache, id);
  Verification result;
  result.id = id;
  result.commit = repository.resolve(revision);
  const fs::path snapshot = repository.snapshot(result.commit);
  std::error_code ignored;
  if (result.commit.empty() || !fs::is_directory(snapshot, ignored))
    throw Error(ErrorCode::not_found, id,
                cat("revision '", revision, "' is not in the cache ", repository.folder().string()));
  const std::optional<Tree> tree = repository.read_tree(result.commit);
  const std::vector<Entry> entries = walk(snapshot);
  uint64_t total = 0, done = 0;
  for (const Entry& entry : entries) total += uint64_t(std::max<int64_t>(0, entry.bytes));
  for (const Entry& entry : entries) {
    std::string expected = entry.blob;
    if (tree) {
      if (const auto it = tree->find(entry.path); it != tree->end()) expected = it->second.etag();
    }
    if (entry.bytes < 0) {
      result.missing.push_back(entry.path);
    } else if (expected.empty()) {
      result.unverifiable.push_back(entry.path);
    } else {
      const std::string got = hash_file(entry.file, expected, [&](uint64_t bytes) {
        done += bytes;
        return !progress || progress(done, total);
      });
      ++result.files;
      result.bytes += uint64_t(entry.bytes);
      if (got != expected)
        result.broken.push_back(
            cat(entry.path, ": expected ", expected.size() == 64 ? "sha256 " : "git blob ", expected, ", got ", got));
    }
  }
  return result;
}

}  // namespace bumblebee::hub
