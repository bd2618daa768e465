// POSIX memory mapping and bounded whole-file reads.
#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/huge_pages.h"

namespace bumblebee {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// Opens a regular file and says how large it is.
size_t open_regular(const std::filesystem::path& path, Descriptor& file) {
  file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd < 0) throw Error(ErrorCode::bad_file, path.string(), cat("cannot open: ", std::strerror(errno)));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0)
    throw Error(ErrorCode::bad_file, path.string(), cat("cannot stat: ", std::strerror(errno)));
  if (!S_ISREG(info.st_mode)) throw Error(ErrorCode::bad_file, path.string(), "cannot read: expected a regular file");
  return size_t(info.st_size);
}

/// A hint about the pages that lie in `bytes` as a whole.
void advise_whole_pages(std::span<const std::byte> bytes, int advice) {
  if (bytes.empty()) return;
  const auto page = uintptr_t(::sysconf(_SC_PAGESIZE));
  uintptr_t first = reinterpret_cast<uintptr_t>(bytes.data()), last = first + bytes.size();
  first = (first + page - 1) / page * page;
  last = last / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  Descriptor file{-1};
  const size_t size = open_regular(path, file);
  const std::byte* data = nullptr;
  if (size > 0) {
    void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
    if (mapped == MAP_FAILED)
      throw Error(errno == ENOMEM ? ErrorCode::out_of_memory : ErrorCode::bad_file, path.string(),
                  cat("cannot map: ", std::strerror(errno)));
    data = static_cast<const std::byte*>(mapped);
    // Weights are read from end to end, and looking up the address of every 4 KB takes up to a third of that. Where the
    // file system has folios so large (XFS; ext4 from Linux 6.16 on), what is not in the page cache yet is then read
    // into huge pages and mapped as such. Elsewhere the system may only read further ahead.
    wish_huge_pages(mapped, size);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, data, size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void pages_done(std::span<const std::byte> bytes) { advise_whole_pages(bytes, MADV_DONTNEED); }

void pages_here_and_there([[maybe_unused]] std::span<const std::byte> bytes) {
#ifdef MADV_NOHUGEPAGE
  advise_whole_pages(bytes, MADV_NOHUGEPAGE);
#endif
}

std::string read_text_file(const std::filesystem::path& path, size_t limit_bytes) {
  Descriptor file{-1};
  const size_t size = open_regular(path, file);
  if (size > limit_bytes) {
    throw Error(ErrorCode::bad_file, path.string(),
                cat("file too large: expected at most ", limit_bytes, " bytes, got ", size));
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(file.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(ErrorCode::bad_file, path.string(), cat("cannot read: ", std::strerror(errno)));
    if (n == 0)
      throw Error(ErrorCode::bad_file, path.string(),
                  cat("file shrank while reading: expected ", size, " bytes, got ", done));
    done += size_t(n);
  }
  return text;
}

std::optional<std::string> read_text_file_if_any(const std::filesystem::path& path, size_t limit_bytes) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return read_text_file(path, limit_bytes);
}

}  // namespace bumblebee
