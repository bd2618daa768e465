// POSIX calls behind the cache's files.
#include "hub/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/format.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {

void fail_system(const fs::path& path, std::string_view action) {
  const int reason = errno;
  std::string hint;
  if (reason == ENOSPC || reason == EDQUOT) hint = ": the disk is full; make room, or set HF_HUB_CACHE to another one";
  if (reason == EROFS || reason == EACCES || reason == EPERM)
    hint = ": the cache may not be written; set HF_HUB_CACHE to a directory that may";
  throw Error(ErrorCode::bad_file, path.string(), cat("cannot ", action, ": ", std::strerror(reason), hint));
}

void make_directories(const fs::path& path) {
  if (::mkdir(path.c_str(), 0777) == 0 || errno == EEXIST) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) return;
    errno = ENOTDIR;
  } else if (errno == ENOENT && path.has_parent_path() && path.parent_path() != path) {
    make_directories(path.parent_path());
    if (::mkdir(path.c_str(), 0777) == 0 || errno == EEXIST) return;
  }
  fail_system(path, "make the directory");
}

void write_whole(const fs::path& path, std::string_view text) {
  fs::path temporary = path;
  temporary += cat(".", unique_suffix(), ".tmp");
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) fail_system(path, "create");
  const char* failed = nullptr;
  for (std::string_view rest = text; !rest.empty() && failed == nullptr;) {
    const ssize_t n = ::write(fd, rest.data(), rest.size());
    if (n >= 0) rest.remove_prefix(size_t(n));
    if (n < 0 && errno != EINTR) failed = "write";
  }
  if (failed == nullptr && ::fsync(fd) != 0) failed = "sync";
  const int reason = errno;
  ::close(fd);
  errno = reason;
  if (failed == nullptr && ::rename(temporary.c_str(), path.c_str()) != 0) failed = "rename";
  if (failed == nullptr) return;
  const int why = errno;
  ::unlink(temporary.c_str());
  errno = why;
  fail_system(path, failed);
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!::fsync(fd);
  ::close(fd);
}

std::string unique_suffix() {
  thread_local std::random_device device;
  return format("{:08x}", device());
}

uint64_t free_bytes(const fs::path& path) {
  for (fs::path at = fs::absolute(path);; at = at.parent_path()) {
    struct statvfs disk {};
    if (::statvfs(at.c_str(), &disk) == 0) return uint64_t(disk.f_bavail) * disk.f_frsize;
    if (errno != ENOENT || at == at.parent_path()) return UINT64_MAX;
  }
}

int64_t size_of(const fs::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) ? int64_t(status.st_size) : -1;
}

}  // namespace bumblebee::hub
