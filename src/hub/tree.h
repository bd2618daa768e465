// The list of files of one commit: from the Hub's API, and as huggingface_hub keeps it in the cache. Hostile until
// checked.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace bumblebee::hub {

struct TreeFile {
  uint64_t size = 0;    // of the content
  std::string blob_id;  // git's SHA-1: of the content, or of the pointer when there is a sha256
  std::string sha256;   // of the content, for files in large-file storage; else empty
  uint64_t lfs_size = 0;
  std::string xet_hash;  // kept for others; not used

  /// What the content hashes to, and the name of its blob.
  const std::string& etag() const { return sha256.empty() ? blob_id : sha256; }
  uint64_t bytes() const { return sha256.empty() ? size : lfs_size; }
};

/// Files by path, in the order of bytes.
using Tree = std::map<std::string, TreeFile, std::less<>>;

constexpr size_t kMaxTreeFiles = 200000;

/// Adds one page of `GET /api/models/{id}/tree/{commit}?recursive=true`. `where` names the repository in errors. Throws
/// Error(bad_file) for what no honest Hub sends: hashes that are none, sizes out of range, a path twice. Names of files
/// are taken as they come: those that are fetched go through check_paths().
void add_tree_page(Tree& tree, const Json& page, std::string_view where);

/// What becomes files must be free of what path_defect() refuses, and no two of them may differ only in case or be file
/// and folder: they would overwrite each other on some file systems. Throws Error(bad_file).
void check_paths(const std::vector<std::string>& paths, std::string_view where);

/// The bytes of "trees/<commit>.json", equal to those that huggingface_hub writes.
std::string tree_to_text(const Tree& tree);
/// Nothing for a text that is not such a file, in a newer version or with content that add_tree_page() would refuse.
std::optional<Tree> tree_from_text(std::string_view text, std::string_view where);

}  // namespace bumblebee::hub
