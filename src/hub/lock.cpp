// flock on an empty file that stays, as Python's filelock does it.
#include "hub/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "hub/files.h"

namespace bumblebee::hub {
namespace {

/// Opens or makes the lock file, writable for the group: users may share a cache.
int open_lock(const std::filesystem::path& path) {
  constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC;
  int fd = ::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0664);
  if (fd >= 0) {
    // Also against the umask; only who made the file may do so, and failing costs others the sharing at most.
    (void)!::fchmod(fd, 0664);
    return fd;
  }
  if (errno == EEXIST) fd = ::open(path.c_str(), kFlags);
  return fd;
}

/// Someone may have removed the file between our opening and locking it: then the lock is on a file nobody else sees.
bool still_there(int fd, const std::filesystem::path& path) {
  struct stat ours {
  }, named{};
  return ::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
         ours.st_dev == named.st_dev;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path, const std::function<bool()>& stop) {
  make_directories(path.parent_path());
  for (auto wait = std::chrono::milliseconds(1);; wait = std::min(wait * 2, std::chrono::milliseconds(50))) {
    if (fd_ < 0) fd_ = open_lock(path);
    if (fd_ < 0 && errno != ENOENT) fail_system(path, "open the lock");
    if (fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      held_ = still_there(fd_, path);
      if (held_) return;
      ::close(fd_);
      fd_ = -1;
    } else if (fd_ >= 0 && errno != EWOULDBLOCK && errno != EACCES && errno != EINTR) {
      return;  // ENOSYS, ENOTSUP, ENOLCK: no locks here
    }
    if (stop && stop()) {
      if (fd_ >= 0) ::close(fd_);
      throw Error(ErrorCode::cancelled, path.string(), "cancelled while waiting for another download");
    }
    std::this_thread::sleep_for(wait);
  }
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace bumblebee::hub
