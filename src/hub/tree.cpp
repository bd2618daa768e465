// Checks what the Hub lists before any of it becomes a path, and writes the list as huggingface_hub does.
#include "hub/tree.h"

#include <nlohmann/json.hpp>

#include <set>

#include "base/error.h"
#include "hub/names.h"

namespace bumblebee::hub {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 44;  // 16 TiB: sums of kMaxTreeFiles of them stay below 2^62
constexpr int kTreeVersion = 1;

[[noreturn]] void refuse(std::string_view where, const std::string& what) {
  throw Error(ErrorCode::bad_file, where, cat("the list of files is not to be trusted: ", what));
}

/// For messages: what is not printable is left out, since the path is what is wrong.
std::string shown(std::string_view path) {
  std::string out;
  for (const char c : path.substr(0, 120)) out += c >= 0x20 && c < 0x7F ? c : '?';
  return out;
}

std::string hash_of(const Json& object, const char* key, std::string_view where, bool (*is_hash)(std::string_view)) {
  std::string hash = string_or(object, key, where, "");
  if (!is_hash(hash)) refuse(where, cat("'", key, "' of a file: expected a hash, got ", brief(Json(hash))));
  return hash;
}

TreeFile checked_file(const Json& entry, std::string_view where) {
  TreeFile file;
  file.size = uint64_t(require_int(entry, "size", where, 0, kLargestFile));
  file.blob_id = hash_of(entry, "oid", where, is_sha1);
  if (const auto lfs = entry.find("lfs"); lfs != entry.end() && !lfs->is_null()) {
    file.sha256 = hash_of(*lfs, "oid", where, is_sha256);
    file.lfs_size = uint64_t(require_int(*lfs, "size", where, 0, kLargestFile));
  }
  if (const std::string xet = string_or(entry, "xetHash", where, ""); is_sha256(xet)) file.xet_hash = xet;
  return file;
}

}  // namespace

void add_tree_page(Tree& tree, const Json& page, std::string_view where) {
  if (!page.is_array()) refuse(where, cat("expected an array, got ", brief(page)));
  for (const Json& entry : page) {
    const std::string type = string_or(entry, "type", where, "");
    if (type == "directory") continue;
    if (type != "file") refuse(where, cat("'type': expected file or directory, got ", brief(Json(type))));
    const std::string path = string_or(entry, "path", where, "");
    if (tree.size() >= kMaxTreeFiles) refuse(where, cat("more than ", kMaxTreeFiles, " files"));
    if (!tree.emplace(path, checked_file(entry, where)).second)
      refuse(where, cat("'", shown(path), "' is there twice"));
  }
}

void check_paths(const std::vector<std::string>& paths, std::string_view where) {
  std::set<std::string> names;
  for (const std::string& path : paths) {
    if (const std::string defect = path_defect(path); !defect.empty())
      refuse(where, cat("'", shown(path), "' has ", defect));
    if (!names.insert(fold_case(path)).second) refuse(where, cat("'", path, "' differs from another in case only"));
  }
  for (const std::string& name : names) {
    for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
      if (names.contains(name.substr(0, slash)))
        refuse(where, cat("'", name.substr(0, slash), "' is a file and a folder"));
    }
  }
}

std::string tree_to_text(const Tree& tree) {
  OrderedJson files = OrderedJson::object();
  for (const auto& [path, file] : tree) {
    OrderedJson entry = {{"size", file.size}, {"blob_id", file.blob_id}};
    if (!file.sha256.empty()) {
      entry["lfs_sha256"] = file.sha256;
      entry["lfs_size"] = file.lfs_size;
    }
    if (!file.xet_hash.empty()) entry["xet_hash"] = file.xet_hash;
    files[path] = std::move(entry);
  }
  return OrderedJson{{"format_version", kTreeVersion}, {"files", std::move(files)}}.dump(1, ' ', true);
}

std::optional<Tree> tree_from_text(std::string_view text, std::string_view where) try {
  const Json root = parse_json(text, where);
  if (int_or(root, "format_version", where, INT64_MIN, INT64_MAX, 0) != kTreeVersion) return {};
  const auto files = root.find("files");
  if (files == root.end() || !files->is_object() || files->size() > kMaxTreeFiles) return {};
  Tree tree;
  for (const auto& [path, entry] : files->items()) {
    TreeFile file;
    file.size = uint64_t(require_int(entry, "size", where, 0, kLargestFile));
    file.blob_id = hash_of(entry, "blob_id", where, is_sha1);
    if (entry.contains("lfs_sha256") && !entry["lfs_sha256"].is_null()) {
      file.sha256 = hash_of(entry, "lfs_sha256", where, is_sha256);
      file.lfs_size = uint64_t(require_int(entry, "lfs_size", where, 0, kLargestFile));
    }
    file.xet_hash = string_or(entry, "xet_hash", where, "");
    tree.emplace(path, std::move(file));
  }
  return tree;
} catch (const Error&) {
  return {};
}

}  // namespace bumblebee::hub
