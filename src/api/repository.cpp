// Finds directories: local ones, and snapshots in the cache that huggingface_hub and its tools share, which are
// downloaded when they are not there.
#include "bumblebee/repository.h"

#include <cstdlib>

#include "api/hub_access.h"
#include "base/error.h"
#include "hub/names.h"

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

/// A misspelt directory reads like an id of the Hub: the message says both.
fs::path fetched_snapshot(const hub::Settings& settings, const hub::Download& what) try {
  return hub::download(settings, what).snapshot;
} catch (const Error& error) {
  if (error.code() != ErrorCode::not_found && error.code() != ErrorCode::network) throw;
  const std::string text = error.what(), start = cat("[", what.id, "] ");
  throw Error(error.code(), what.id,
              cat("there is no such directory, and ", text.substr(text.starts_with(start) ? start.size() : 0)));
}

/// What is whole in the cache is used as it is: no question to the Hub, no wait.
fs::path hub_directory(const std::string& id, const HubOptions& options) {
  const hub::Settings settings = api::hub_settings(options);
  const hub::Download what = api::hub_request(id, options);
  fs::path snapshot = hub::cached_snapshot(settings, what);
  if (snapshot.empty()) snapshot = fetched_snapshot(settings, what);
  if (options.subdir.empty()) return snapshot;
  if (!folder_exists(snapshot / options.subdir))
    throw Error(ErrorCode::bad_file, id, cat("no folder '", options.subdir, "' in ", snapshot.string()));
  return snapshot / options.subdir;
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
  if (folder_exists(expand(source)) || source.starts_with("./") || source.starts_with("~")) return local(source);
  std::string id;
  if (!api::split_hub_source(source, id, options)) return local(source);
  // "folder/of/mine", misspelt: the Hub need not hear of it.
  if (!options.subdir.empty() && folder_exists(source.substr(0, source.find('/')))) return local(source);
  return hf(id, std::move(options));
}

}  // namespace bumblebee
