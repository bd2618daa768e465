// POSIX: open exclusively, write, fsync, rename, fsync of the directory.
#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace bumblebee {
namespace {

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  static std::atomic<unsigned> counter{0};
  // The name must be free even when an earlier process with this id crashed: O_EXCL decides, the counter moves on.
  for (int attempt = 0; attempt < 100 && fd_ < 0; ++attempt) {
    temporary_ = directory_of(path_) / cat(".", path_.filename().string(), ".tmp-", ::getpid(), "-", counter++);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) fail("create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::fail(std::string_view action) const {
  throw Error(ErrorCode::bad_file, path_.string(), cat("cannot ", action, ": ", std::strerror(errno)));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  BB_CHECK(fd_ >= 0, path_.string());
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write");
    bytes = bytes.subspan(size_t(n));
  }
}

void AtomicFile::commit() {
  BB_CHECK(fd_ >= 0, path_.string());
  if (::fsync(fd_) != 0) fail("sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
  ::close(fd_);
  fd_ = -1;
  const int directory = ::open(directory_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) fail("open the directory of");
  const int synced = ::fsync(directory);
  const int reason = errno;
  ::close(directory);
  errno = reason;
  // Some file systems cannot sync a directory and say EINVAL; the rename itself has happened.
  if (synced != 0 && reason != EINVAL) fail("sync the directory of");
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace bumblebee
