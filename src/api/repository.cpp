// Finds directories: local ones, and snapshots in the cache that huggingface_hub and its tools share, which are
// downloaded when they are not there.
#include "bumblebee/repository.h"

#include <cstdlib>

#include "api/hub_access.h"
#include "base/error.h"
#include "hub/cache.h"
#include "hub/names.h"
#include "hub/source.h"

namespace fs = std::filesystem;

namespace bumblebee {
namespace {

fs::path expand(const fs::path& path) {
  const char* home = std::getenv("HOME");
  const fs::path start = home == nullptr || *home == '\0' ? fs::path(".") : fs::path(home);
  const std::string text = path.string();
  if (text == "~") return start;
  return text.starts_with("~/") ? start / text.substr(2) : path;
}

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// Files that are named for the directory they lie in: of them it has one.
bool stands_for_its_directory(const fs::path& path) {
  if (folder_exists(path)) return false;
  const std::string name = path.filename().string();
  for (const char* known : {"config.json", "adapter_config.json", "adapters.safetensors", "adapter_model.safetensors",
                            "model.safetensors", "model.safetensors.index.json", "tokenizer.json"}) {
    if (name == known) return true;
  }
  return false;
}

fs::path directory_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

/// A misspelt directory reads like an id of the Hub: the message says both, unless the cache knows the id.
fs::path fetched_snapshot(const hub::Settings& settings, const hub::Download& what) try {
  return hub::download(settings, what).snapshot;
} catch (const Error& error) {
  if (error.code() != ErrorCode::not_found && error.code() != ErrorCode::network) throw;
  if (folder_exists(settings.cache / hub::folder_name(what.id))) throw;
  const std::string text = error.what(), start = cat("[", what.id, "] ");
  throw Error(error.code(), what.id,
              cat("there is no such directory, and ", text.substr(text.starts_with(start) ? start.size() : 0)));
}

/// What is whole in the cache is used as it is: no question to the Hub, no wait.
fs::path hub_directory(const std::string& id, const HubOptions& options, bool weights) {
  const hub::Settings settings = api::hub_settings(options);
  hub::Download what = api::hub_request(id, options);
  what.selection.weights = weights;
  fs::path snapshot = hub::cached_snapshot(settings, what);
  if (snapshot.empty()) snapshot = fetched_snapshot(settings, what);
  if (options.subdir.empty()) return snapshot;
  if (!folder_exists(snapshot / options.subdir))
    throw Error(ErrorCode::bad_file, id, cat("no folder '", options.subdir, "' in ", snapshot.string()));
  return snapshot / options.subdir;
}

}  // namespace

fs::path Repository::directory() const { return checked(place(true)); }
fs::path Repository::text_directory() const { return checked(place(false)); }
fs::path Repository::place() const { return place(true); }

fs::path Repository::checked(const fs::path& path) const {
  if (folder_exists(path)) return path;
  if (path.extension() == ".gguf") {
    throw Error(ErrorCode::bad_file, name_,
                cat("a GGUF file: `bumblebee convert ", name_, " DIR` makes a model's directory of it"));
  }
  throw Error(ErrorCode::bad_file, name_,
              cat("expected a directory, got a file: give the one that holds it, ", directory_of(path).string()));
}

fs::path Repository::place(bool weights) const {
  if (hub_) return hub_directory(name_, options_, weights);
  fs::path path = expand(name_);
  std::error_code ignored;
  if (fs::exists(path, ignored)) return stands_for_its_directory(path) ? directory_of(path) : path;
  const std::string first = name_.substr(0, name_.find('/'));
  if (hub::is_repository_id(name_) && folder_exists(first)) {
    throw Error(ErrorCode::bad_file, name_,
                cat("no such directory in ", first, "/ (hf://", name_, " asks the Hub for a repository of that name)"));
  }
  throw Error(ErrorCode::bad_file, name_, "no such directory");
}

Repository hf(std::string id, HubOptions options) {
  if (!hub::is_repository_id(id)) {
    throw Error(ErrorCode::bad_request, "hf",
                cat("expected a repository id of the form org/name (letters, digits, '-', '_', '.'), got '",
                    id.substr(0, 200), "'"));
  }
  if (!hub::is_revision(options.revision))
    throw Error(ErrorCode::bad_request, id,
                cat("expected a branch, tag or commit, got '", options.revision.substr(0, 200), "'"));
  if (!options.subdir.empty() && !hub::path_defect(options.subdir).empty()) {
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

Repository repository(const std::string& source, HubOptions options) {
  const bool named = source.starts_with("hf://");
  if (!named && !hub::is_address(source)) {
    const fs::path path = expand(source);
    std::error_code ignored;
    const bool is_folder = folder_exists(path);
    if (const auto parts = is_folder ? hub::parse_cache_folder(path) : std::nullopt) {
      options.cache_dir = parts->cache;
      options.revision = parts->revision;
      options.subdir = parts->subdir;
      return hf(parts->id, std::move(options));
    }
    // What is there is meant, whatever it is. Nor is "folder/of/mine", misspelt, for the Hub to hear of.
    if (is_folder || fs::exists(path, ignored) || source.starts_with(".") || source.starts_with("~"))
      return local(source);
    if (folder_exists(source.substr(0, source.find('/')))) return local(source);
  }
  std::optional<std::string> id = api::split_hub_source(source, options);
  return id ? hf(std::move(*id), std::move(options)) : local(source);
}

}  // namespace bumblebee
