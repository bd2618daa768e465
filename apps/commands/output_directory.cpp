// Writes beside the wanted name and renames at the end.
#include "commands/output_directory.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "base/output_paths.h"
#include "bumblebee/error.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace fs = std::filesystem;

namespace {

/// Renames that can be taken back.
class Moves {
 public:
  void move(const fs::path& from, const fs::path& to) {
    fs::create_directories(to.parent_path());
    fs::rename(from, to);
    done_.emplace_back(from, to);
  }
  void undo() noexcept {
    std::error_code ignored;
    for (; !done_.empty(); done_.pop_back()) fs::rename(done_.back().second, done_.back().first, ignored);
  }

 private:
  std::vector<std::pair<fs::path, fs::path>> done_;
};

/// The folders that hold `names`, deepest first: empty ones go.
void remove_empty_folders(const fs::path& root, const std::set<std::string>& names) {
  std::set<fs::path, std::greater<>> folders;
  for (const std::string& name : names)
    for (fs::path folder = fs::path(name).parent_path(); !folder.empty(); folder = folder.parent_path())
      folders.insert(folder);
  std::error_code full;
  for (const fs::path& folder : folders) fs::remove(root / folder, full);
}

}  // namespace

OutputDirectory::OutputDirectory(fs::path path, Existing existing, std::span<const fs::path> inputs)
    : path_(std::move(path)) {
  if (path_.empty()) throw UsageError("no output directory given");
  if (!path_.has_filename()) path_ = path_.parent_path();  // "out/" is "out"
  require_apart(path_, inputs);
  if (fs::exists(fs::symlink_status(path_))) {
    if (existing == Existing::refuse)
      throw UsageError("'" + path_.string() + "' exists already; choose another name, or --force to replace it");
    if (!fs::is_directory(path_)) throw UsageError("'" + path_.string() + "' is no directory; choose another name");
    old_ = written_files(path_);
    if (old_.empty() && !fs::is_empty(path_)) {
      throw UsageError("'" + path_.string() + "' holds files that bumblebee did not write, such as '" +
                       fs::directory_iterator(path_)->path().filename().string() +
                       "'; --force replaces only what an earlier run wrote: choose another name, or move them away");
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
  fs::remove_all(work_, ignored);
}

void OutputDirectory::finish() {
  std::set<std::string> names = files_below(work_);
  write_manifest(work_, names);
  names.insert(kManifestName);
  std::error_code failure;
  if (!fs::exists(fs::symlink_status(path_))) {
    fs::rename(work_, path_, failure);
    if (failure)
      throw Error(ErrorCode::bad_file, path_.string(), "cannot put the directory in place: " + failure.message());
    return;
  }
  replace(names);
}

void OutputDirectory::replace(const std::set<std::string>& names) {
  for (const std::string& name : names) {
    if (!old_.contains(name) && fs::exists(fs::symlink_status(path_ / name)))
      throw Error(ErrorCode::bad_file, (path_ / name).string(),
                  "is not as bumblebee wrote it and would be replaced; nothing was changed: move it away");
  }
  fs::path aside = path_;
  aside += ".old-" + std::to_string(::getpid());
  Moves moves;
  try {
    for (const std::string& name : old_) moves.move(path_ / name, aside / name);
    for (const std::string& name : names) moves.move(work_ / name, path_ / name);
  } catch (const fs::filesystem_error& error) {
    moves.undo();
    std::error_code ignored;
    remove_empty_folders(aside, old_);
    fs::remove(aside, ignored);
    throw Error(ErrorCode::bad_file, path_.string(), std::string("cannot put the files in place: ") + error.what());
  }
  std::error_code ignored;
  fs::remove_all(aside, ignored);
  remove_empty_folders(path_, old_);
}

}  // namespace bumblebee::cli
