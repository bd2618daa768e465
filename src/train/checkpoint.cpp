// POSIX renames and syncs around io's atomic files.
#include "train/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "io/safetensors.h"
#include "train/hashing.h"

namespace bumblebee::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFiles[] = {"state.json", "tensors.safetensors"};
constexpr size_t kLargestState = size_t{16} << 20;

[[noreturn]] void fail(const fs::path& path, std::string_view action) {
  throw Error(ErrorCode::bad_file, path.string(), cat("cannot ", action, ": ", std::strerror(errno)));
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail(path, "open");
  const int synced = ::fsync(fd);
  const int reason = errno;
  ::close(fd);
  errno = reason;
  if (synced != 0 && reason != EINVAL) fail(path, "sync");  // EINVAL: the file system has no such thing
}

void write_tensors(const fs::path& path, const Snapshot& snapshot) {
  std::vector<TensorView> views;
  for (const auto& [name, values] : snapshot.tensors)
    views.push_back({{name, DType::f32, {values.size()}}, std::as_bytes(std::span(values))});
  write_safetensors(path, views);
}

std::map<std::string, std::vector<float>> read_tensors(const fs::path& path) {
  std::map<std::string, std::vector<float>> tensors;
  const auto file = SafetensorsFile::open(path);
  for (const TensorEntry& entry : file->tensors()) {
    if (entry.dtype != DType::f32)
      throw Error(ErrorCode::bad_file, path.string(), "'" + entry.name + "': expected F32");
    std::vector<float>& values = tensors[entry.name];
    values.resize(size_t(entry.end - entry.begin) / sizeof(float));
    std::memcpy(values.data(), file->bytes(entry).data(), values.size() * sizeof(float));
  }
  return tensors;
}

void verify(const fs::path& directory) {
  const fs::path path = directory / "manifest.json";
  const Json manifest = parse_json(read_text_file(path, kLargestState), path.string());
  for (const char* name : kFiles) {
    if (!manifest.is_object() || !manifest.contains(name) || !manifest[name].is_string())
      throw Error(ErrorCode::bad_file, path.string(), cat("expected the hash of '", name, "'"));
    const std::string hash = hash_file(directory / name);
    if (manifest[name] != hash)
      throw Error(ErrorCode::bad_file, (directory / name).string(),
                  cat("hash: expected ", manifest[name].get<std::string>(), " as the manifest says, got ", hash,
                      "; delete this checkpoint to go on from the one before"));
  }
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path root, int keep) : root_(std::move(root)), keep_(keep) {
  BB_CHECK(keep >= 1);
  std::error_code failed;
  fs::create_directories(root_, failed);
  const fs::path path = root_ / "lock";
  lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) fail(path, "create");
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    throw Error(ErrorCode::bad_request, root_.string(), "another training is writing its checkpoints here");
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(root_)) {
    if (entry.path().filename().string().starts_with("tmp-")) fs::remove_all(entry.path());
  }
}

CheckpointStore::~CheckpointStore() { ::close(lock_); }

fs::path CheckpointStore::directory_of(int iteration) const {
  const std::string digits = std::to_string(iteration);
  return root_ / ("step-" + std::string(digits.size() < 7 ? 7 - digits.size() : 0, '0') + digits);
}

std::vector<int> CheckpointStore::steps() const {
  std::vector<int> steps;
  for (const fs::directory_entry& entry : fs::directory_iterator(root_)) {
    const std::string name = entry.path().filename().string();
    int step = 0;
    if (!name.starts_with("step-")) continue;
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    if (error == std::errc() && end == name.data() + name.size()) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void CheckpointStore::clear() {
  fs::remove(root_ / "latest");
  for (const int step : steps()) {
    // Renamed first: what is half deleted must not look like a checkpoint.
    const fs::path aside = root_ / cat("tmp-old-", step);
    fs::rename(directory_of(step), aside);
    fs::remove_all(aside);
  }
}

fs::path CheckpointStore::save(const Snapshot& snapshot) {
  const fs::path directory = directory_of(snapshot.iteration), aside = root_ / cat("tmp-", snapshot.iteration);
  fs::remove_all(aside);
  fs::create_directory(aside);
  write_tensors(aside / "tensors.safetensors", snapshot);
  write_text_file(aside / "state.json", snapshot.state.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  Json manifest;
  for (const char* name : kFiles) manifest[name] = hash_file(aside / name);
  write_text_file(aside / "manifest.json", manifest.dump(1) + "\n");
  sync_directory(aside);
  // A resumed run may come to a step that is there already; then the two change places at once.
  const unsigned flags = fs::exists(directory) ? RENAME_EXCHANGE : 0;
  if (::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, directory.c_str(), flags) != 0) fail(directory, "rename");
  sync_directory(root_);
  fs::remove_all(aside);
  write_text_file(root_ / "latest", directory.filename().string() + "\n");
  const std::vector<int> all = steps();
  for (size_t i = 0; i + size_t(keep_) < all.size(); ++i) {
    const fs::path old = root_ / cat("tmp-old-", all[i]);
    fs::rename(directory_of(all[i]), old);
    fs::remove_all(old);
  }
  return directory;
}

std::optional<Snapshot> CheckpointStore::newest() const {
  const std::vector<int> all = steps();
  if (all.empty()) return std::nullopt;
  const fs::path directory = directory_of(all.back());
  verify(directory);
  const fs::path state = directory / "state.json";
  return Snapshot{.iteration = all.back(),
                  .state = parse_json(read_text_file(state, kLargestState), state.string()),
                  .tensors = read_tensors(directory / "tensors.safetensors")};
}

}  // namespace bumblebee::train
