// Writes beside the wanted name and renames at the end; into a directory that exists, file by file.
#include "commands/output_directory.h"

#include <functional>
#include <utility>
#include <vector>

#include "base/output_paths.h"
#include "bumblebee/error.h"
#include "ui/exit_codes.h"

namespace bumblebee::cli {

namespace fs = std::filesystem;

namespace {

// Within an output that is replaced: renames stay on its file system, and need no right to its parent.
constexpr const char *kWork = ".bumblebee-tmp-", *kAside = ".bumblebee-old-";

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

/// A directory that was not there before: "start0", "start1", ...
fs::path make_fresh(const fs::path& start) {
  for (int i = 0;; ++i) {
    fs::path candidate = start;
    candidate += std::to_string(i);
    std::error_code failure;
    if (fs::create_directory(candidate, failure)) return candidate;
    if (failure) throw Error(ErrorCode::bad_file, start.string(), "cannot create the directory: " + failure.message());
  }
}

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

void check_apart(const fs::path& output, std::span<const fs::path> inputs) {
  try {
    require_apart(output, inputs);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

OutputDirectory::OutputDirectory(fs::path path, Existing existing, std::span<const fs::path> inputs)
    : path_(std::move(path)) {
  if (path_.empty()) throw UsageError("no output directory given");
  if (!path_.has_filename()) path_ = path_.parent_path();  // "out/" is "out"
  check_apart(path_, inputs);
  std::error_code failure;
  replaces_ = fs::exists(fs::symlink_status(path_));
  if (replaces_) {
    check_existing(existing);
    work_ = make_fresh(path_ / kWork);
    return;
  }
  if (path_.has_parent_path()) fs::create_directories(path_.parent_path(), failure);
  fs::path beside = path_;
  beside += ".tmp-";
  work_ = make_fresh(beside);
}

void OutputDirectory::check_existing(Existing existing) const {
  const std::string name = "'" + path_.string() + "'";
  if (existing == Existing::refuse)
    throw UsageError(name + " exists already; choose another name, or --force to replace it");
  if (!fs::is_directory(path_)) throw UsageError(name + " is no directory; choose another name");
  const WrittenFiles written = written_files(path_);
  if (!written.edited.empty()) {
    throw UsageError("'" + (path_ / *written.edited.begin()).string() +
                     "' was changed since bumblebee wrote it, and would be replaced: move it away");
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string file = entry.path().filename().string();
    if (file.starts_with(kWork)) continue;
    if (file.starts_with(kAside)) {
      throw UsageError("'" + entry.path().string() +
                       "' holds what an interrupted run had set aside: move it back, or away");
    }
    if (written.ours.empty()) {
      throw UsageError(name + " holds files that bumblebee did not write, such as '" + file +
                       "'; --force replaces only what an earlier run wrote: choose another name, or move them away");
    }
  }
}

OutputDirectory::~OutputDirectory() {
  std::error_code ignored;
  if (!keeps_work_) fs::remove_all(work_, ignored);
}

void OutputDirectory::finish() {
  try {
    std::set<std::string> names = files_below(work_);
    write_manifest(work_, names);
    names.insert(kManifestName);
    if (replaces_) return replace(names);
    if (fs::exists(fs::symlink_status(path_)))
      throw Error(ErrorCode::bad_file, path_.string(), "was made by somebody else meanwhile");
    fs::rename(work_, path_);
  } catch (const fs::filesystem_error& error) {
    keeps_work_ = true;
    throw Error(ErrorCode::bad_file, path_.string(),
                std::string("cannot put the files in place: ") + error.what() + "; they are in " + work_.string());
  } catch (const Error& error) {
    keeps_work_ = true;
    throw Error(error.code(), path_.string(), std::string(error.what()) + "; what was made is in " + work_.string());
  }
}

void OutputDirectory::replace(const std::set<std::string>& names) {
  const std::set<std::string> old = written_files(path_).ours;  // now, not as it was when the work began
  for (const std::string& name : names) {
    if (!old.contains(name) && fs::exists(fs::symlink_status(path_ / name)))
      throw Error(ErrorCode::bad_file, (path_ / name).string(), "is not bumblebee's and would be replaced");
  }
  const fs::path aside = make_fresh(path_ / kAside);
  Moves moves;
  try {
    // The manifest goes last and comes first: whatever stands at any moment, its names are known to be ours.
    for (const std::string& name : old)
      if (name != kManifestName) moves.move(path_ / name, aside / name);
    if (old.contains(kManifestName)) moves.move(path_ / kManifestName, aside / kManifestName);
    moves.move(work_ / kManifestName, path_ / kManifestName);
    for (const std::string& name : names)
      if (name != kManifestName) moves.move(work_ / name, path_ / name);
  } catch (const fs::filesystem_error&) {
    moves.undo();
    remove_empty_folders(aside, old);
    std::error_code ignored;
    fs::remove(aside, ignored);
    throw;
  }
  std::error_code ignored;
  fs::remove_all(aside, ignored);
  remove_empty_folders(path_, old);
}

}  // namespace bumblebee::cli
