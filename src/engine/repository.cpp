// Finds directories: local ones, and snapshots in the cache that huggingface_hub and its tools fill. Never downloads.
#include "bumblebee/repository.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/mapped_file.h"

namespace fs = std::filesystem;

namespace bumblebee {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path home() {
  const std::string value = environment("HOME");
  return value.empty() ? fs::path(".") : fs::path(value);
}

fs::path expand(const fs::path& path) {
  const std::string text = path.string();
  if (text == "~") return home();
  return text.starts_with("~/") ? home() / text.substr(2) : path;
}

/// huggingface_hub's order.
fs::path hub_cache(const fs::path& chosen) {
  if (!chosen.empty()) return expand(chosen);
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string value = environment(name); !value.empty()) return expand(value);
  }
  if (const std::string value = environment("HF_HOME"); !value.empty()) return expand(value) / "hub";
  if (const std::string value = environment("XDG_CACHE_HOME"); !value.empty())
    return expand(value) / "huggingface" / "hub";
  return home() / ".cache" / "huggingface" / "hub";
}

bool word(std::string_view text) {
  if (text.empty() || text.size() > 96 || text.front() == '-' || text.front() == '.' || text.back() == '-' ||
      text.back() == '.')
    return false;
  if (text.find("..") != std::string_view::npos || text.find("--") != std::string_view::npos) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

bool hub_id(std::string_view id) {
  const size_t slash = id.find('/');
  if (slash == std::string_view::npos) return false;
  return word(id.substr(0, slash)) && word(id.substr(slash + 1));
}

/// A relative path of plain names: a revision ("refs/pr/1") or a subfolder may not lead out of the cache.
bool plain_path(std::string_view text) {
  if (text.empty() || text.size() > 512 || text.front() == '/' || text.find('\\') != std::string_view::npos ||
      text.find('\0') != std::string_view::npos) {
    return false;
  }
  for (const fs::path& part : fs::path(text)) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

bool commit_hash(std::string_view text) {
  return text.size() == 40 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// The commit that `revision` stands for in this repository's folder, or empty.
std::string resolve(const fs::path& folder, const std::string& revision) {
  if (commit_hash(revision)) return revision;
  const fs::path ref = folder / "refs" / revision;
  std::error_code ignored;
  if (!fs::is_regular_file(ref, ignored)) return "";
  std::string commit = read_text_file(ref, 4096);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' ')) commit.pop_back();
  if (!commit_hash(commit))
    throw Error(ErrorCode::bad_file, ref.string(), "expected a commit hash of 40 hexadecimal digits");
  return commit;
}

fs::path hub_directory(const std::string& id, const HubOptions& options) {
  const fs::path cache = hub_cache(options.cache_dir);
  std::string name = "models--" + id;
  name.replace(name.find('/'), 1, "--");
  const fs::path folder = cache / name;
  const auto missing = [&](const std::string& what) {
    return Error(ErrorCode::bad_file, id,
                 cat(what,
                     "; this command reads the local Hugging Face cache and does not download: fetch the repository "
                     "with any Hugging Face "
                     "tool (or copy its files to a directory and give that), and check HF_HUB_CACHE and HF_HOME"));
  };
  if (!folder_exists(folder)) throw missing(cat("not in the cache: no folder ", folder.string()));
  const std::string commit = resolve(folder, options.revision);
  if (commit.empty())
    throw missing(cat("revision '", options.revision, "' is not in the cache: no file ",
                      (folder / "refs" / options.revision).string()));
  const fs::path snapshot = folder / "snapshots" / commit;
  if (!folder_exists(snapshot))
    throw missing(cat("revision '", options.revision, "' is not in the cache: no folder ", snapshot.string()));
  if (options.subdir.empty()) return snapshot;
  const fs::path result = snapshot / options.subdir;
  if (!folder_exists(result)) throw missing(cat("no folder '", options.subdir, "' in ", snapshot.string()));
  return result;
}

}  // namespace

fs::path Repository::directory() const {
  if (hub_) return hub_directory(name_, options_);
  const fs::path path = expand(name_);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw Error(ErrorCode::bad_file, name_, "no such directory");
  if (!folder_exists(path)) throw Error(ErrorCode::bad_file, name_, "expected a directory, got a file");
  return path;
}

Repository hf(std::string id, HubOptions options) {
  if (!hub_id(id)) {
    throw Error(ErrorCode::bad_request, "hf",
                cat("expected a repository id of the form org/name (letters, digits, '-', '_', '.'), got '",
                    id.substr(0, 200), "'"));
  }
  if (!plain_path(options.revision))
    throw Error(ErrorCode::bad_request, id,
                cat("expected a branch, tag or commit, got '", options.revision.substr(0, 200), "'"));
  if (!options.subdir.empty() && !plain_path(options.subdir)) {
    throw Error(ErrorCode::bad_request, id,
                cat("expected a folder inside the repository, got '", options.subdir.substr(0, 200), "'"));
  }
  Repository repository;
  repository.name_ = std::move(id);
  repository.hub_ = true;
  repository.options_ = std::move(options);
  return repository;
}

Repository local(fs::path directory) {
  Repository repository;
  repository.name_ = directory.string();
  return repository;
}

Repository repository(const std::string& source) {
  if (folder_exists(expand(source))) return local(source);
  const size_t at = source.find('@');
  const std::string id = source.substr(0, at);
  if (!hub_id(id) || source.starts_with("./") || source.starts_with("~")) return local(source);
  HubOptions options;
  if (at != std::string::npos) options.revision = source.substr(at + 1);
  return hf(id, std::move(options));
}

}  // namespace bumblebee
