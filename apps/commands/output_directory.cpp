// Writes beside the wanted name and renames at the end.
#include "commands/output_directory.h"

#include <unistd.h>

#include "bumblebee/error.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace fs = std::filesystem;

namespace {

// --force must not delete somebody's home because of a typing error: only what looks like a model directory is
// replaced.
bool replaceable(const fs::path& path) {
  return fs::is_empty(path) || fs::exists(path / "config.json") || fs::exists(path / "adapter_config.json");
}

}  // namespace

OutputDirectory::OutputDirectory(fs::path path, Existing existing) : path_(std::move(path)) {
  if (path_.empty()) throw UsageError("no output directory given");
  if (!path_.has_filename()) path_ = path_.parent_path();  // "out/" is "out"
  if (fs::exists(fs::symlink_status(path_))) {
    if (existing == Existing::refuse)
      throw UsageError("'" + path_.string() + "' exists already; choose another name, or --force to replace it");
    if (!fs::is_directory(fs::symlink_status(path_)) || !replaceable(path_)) {
      throw UsageError("'" + path_.string() + "' is no directory of a model or adapter; --force replaces only those");
    }
  }
  work_ = path_;
  work_ += ".tmp-" + std::to_string(::getpid());
  std::error_code failure;
  fs::create_directories(work_, failure);
  if (failure) throw Error(ErrorCode::bad_file, path_.string(), "cannot create the directory: " + failure.message());
}

OutputDirectory::~OutputDirectory() {
  std::error_code ignored;
  if (!finished_) fs::remove_all(work_, ignored);
}

void OutputDirectory::finish() {
  std::error_code failure;
  fs::path old = path_;
  old += ".old-" + std::to_string(::getpid());
  bool replaces = fs::exists(path_);
  if (replaces) fs::rename(path_, old, failure);
  if (!failure) fs::rename(work_, path_, failure);
  if (failure)
    throw Error(ErrorCode::bad_file, path_.string(), "cannot put the directory in place: " + failure.message());
  finished_ = true;
  if (replaces) fs::remove_all(old, failure);
}

}  // namespace bumblebee::cli
