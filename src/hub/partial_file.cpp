// Appends only; the data is sent to the disk while more arrives, so that the sync at the end has little left to do.
#include "hub/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "hub/files.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

constexpr uint64_t kFlushBytes = uint64_t{16} << 20;

constexpr std::string_view kEnd = ".incomplete";

/// The hash that a partial file's name begins with; empty for other files.
std::string etag_of(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(kEnd) ? name.substr(0, name.find('.')) : "";
}

std::vector<fs::path> leftovers_of(const fs::path& blobs, const std::string& etag) {
  std::vector<fs::path> found;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(blobs, failure)) {
    if (etag_of(entry.path()) == etag && size_of(entry.path()) >= 0) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return size_of(a) > size_of(b); });
  return found;
}

}  // namespace

std::map<std::string, uint64_t> list_partials(const fs::path& blobs) {
  std::map<std::string, uint64_t> largest;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(blobs, failure)) {
    const std::string etag = etag_of(entry.path());
    const int64_t size = etag.empty() ? -1 : size_of(entry.path());
    if (size >= 0) largest[etag] = std::max(largest[etag], uint64_t(size));
  }
  return largest;
}

PartialFile::PartialFile(const fs::path& blobs, const std::string& etag, ResumeMode mode)
    : path_(blobs / cat(etag, ".", unique_suffix(), ".incomplete")) {
  int flags = O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL;
  if (mode == ResumeMode::adopt) {
    const int create = flags;
    for (const fs::path& old : leftovers_of(blobs, etag)) {
      if (flags == create && ::rename(old.c_str(), path_.c_str()) == 0) {
        flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
      } else {
        ::unlink(old.c_str());
      }
    }
  }
  fd_ = ::open(path_.c_str(), flags, 0666);
  struct stat status {};
  if (fd_ < 0) fail_system(path_, "create");
  if (::fstat(fd_, &status) == 0) size_ = uint64_t(status.st_size);
}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (size_ == 0) ::unlink(path_.c_str());
}

void PartialFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), off_t(size_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system(path_, "write");
    size_ += uint64_t(n);
    bytes = bytes.subspan(size_t(n));
  }
  if (size_ - flushed_ < kFlushBytes) return;
  (void)!::sync_file_range(fd_, off_t(flushed_), off_t(size_ - flushed_), SYNC_FILE_RANGE_WRITE);
  flushed_ = size_;
}

void PartialFile::clear() {
  if (::ftruncate(fd_, 0) != 0) fail_system(path_, "truncate");
  size_ = flushed_ = 0;
}

void PartialFile::read(const std::function<void(std::span<const std::byte>)>& each) const {
  std::vector<std::byte> buffer(size_t{1} << 20);
  for (uint64_t at = 0; at < size_;) {
    const ssize_t n = ::pread(fd_, buffer.data(), buffer.size(), off_t(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_system(path_, "read");
    each(std::span(buffer).first(size_t(n)));
    at += uint64_t(n);
  }
}

void PartialFile::commit(const fs::path& name) {
  if (::fsync(fd_) != 0) fail_system(path_, "sync");
  if (::rename(path_.c_str(), name.c_str()) != 0) fail_system(name, "rename");
  ::close(fd_);
  fd_ = -1;
}

}  // namespace bumblebee::hub
