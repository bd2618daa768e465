// One repository's folder in the cache, in the layout of huggingface_hub: blobs by hash, snapshots of links, refs,
// trees, and the locks beside them. Every file appears whole or not at all.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hub/select.h"
#include "hub/tree.h"

namespace bumblebee::hub {

/// "models--org--name"
std::string folder_name(const std::string& id);

class RepositoryCache {
 public:
  RepositoryCache(std::filesystem::path cache, const std::string& id);

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path lock(const std::string& etag) const;
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }

  /// The commit of a branch or tag as the cache has it, or a commit itself; empty: not there. Throws Error(bad_file)
  /// for a ref that holds no commit.
  std::string resolve(const std::string& revision) const;
  /// Writes refs/<revision> unless it says so already or the revision is the commit.
  void write_ref(const std::string& revision, const std::string& commit) const;

  /// The list of files, when it was kept and is good.
  std::optional<Tree> read_tree(const std::string& commit) const;
  /// Fails silently, as the list can be fetched again.
  void write_tree(const std::string& commit, const Tree& tree) const;

  /// Whether a snapshot has this file with these bytes (content is not hashed).
  bool has_file(const std::string& commit, const std::string& path, const TreeFile& file) const;
  /// Whether blobs/<etag> is there with that size.
  bool has_blob(const TreeFile& file) const;

  /// Gives the blob its name in the snapshot: a relative link, or, when links are off or impossible, the file itself:
  /// moved there when this call `owns` the blob, else copied.
  enum class Blob : unsigned char { own, shared };
  void link(const std::string& commit, const std::string& path, const std::string& etag, bool symlinks,
            Blob blob) const;

  /// Notes that a commit has no such file: .no_exist/<commit>/<path>. Fails silently.
  void write_absent(const std::string& commit, const std::string& path) const;

  /// Whether such a note is there.
  bool is_absent(const std::string& commit, const std::string& path) const;

  /// Makes the folders, and the CACHEDIR.TAG of the cache. Throws Error(bad_file) when that is impossible.
  void create() const;

 private:
  std::filesystem::path cache_, folder_;
};

/// Whether a file counts as missing that a repository may well do without (a tokenizer).
enum class Doubt : unsigned char { counts, passes };

/// Files of a selection that a snapshot lacks. With a kept list: those of the list. Without one, as every tool leaves
/// it that fetches single files: weights when there are none, shards that an index or a shard's own name speaks of,
/// links to nothing, "(every file)" for an empty folder; in doubt also the config and the tokenizer, unless
/// huggingface_hub noted that the repository has none.
std::vector<std::string> missing_files(const RepositoryCache& cache, const std::string& commit,
                                       const Selection& selection, Doubt doubt = Doubt::counts);

}  // namespace bumblebee::hub
