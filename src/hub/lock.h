// Locks between processes, on the files that Python's filelock uses, so that each waits for the other.
#pragma once

#include <filesystem>
#include <functional>

namespace bumblebee::hub {

/// Holds flock(LOCK_EX) on a file while alive. The file stays when the lock goes: whoever removed it would split those
/// who wait.
class FileLock {
 public:
  /// Waits, asking `stop` many times a second; returning true throws Error(cancelled). Throws Error(bad_file) when the
  /// lock file cannot be made.
  FileLock(const std::filesystem::path& path, const std::function<bool()>& stop);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False where the file system knows no locks: then nothing that another process may also write to is touched.
  bool held() const { return held_; }

 private:
  int fd_ = -1;
  bool held_ = false;
};

}  // namespace bumblebee::hub
