// openat2 with RESOLVE_BENEATH, for the place and for each file in it.
#include "serve/confined_path.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"

namespace bumblebee::serve {

namespace {

[[noreturn]] void refuse(std::string_view relative, std::string_view why, ErrorCode code = ErrorCode::bad_request) {
  throw Error(
      code, "lora_path",
      cat("expected a directory below the server's --adapter-root, got '", relative.substr(0, 200), "': ", why));
}

/// O_PATH: a FIFO or a device is looked at, not opened.
int open_beneath(int root, const char* path) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return int(::syscall(SYS_openat2, root, path, &how, sizeof how));
}

struct stat status_of(int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) status.st_mode = 0;
  return status;
}

/// Every entry of the directory must be a directory or a regular file beneath the root: what is read by its name then
/// is. The kernel goes there by the directory's own name once more, hence the comparison.
void check_entries(int root, int directory, const std::string& relative) {
  Descriptor readable(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (readable.get() < 0) refuse(relative, std::strerror(errno));
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(readable.get()), ::closedir);
  if (!entries) refuse(relative, std::strerror(errno));
  readable.release();  // closedir() closes it
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    const Descriptor file(open_beneath(root, (relative + "/" + name).c_str()));
    if (file.get() < 0) refuse(relative, cat("'", name, "' in it leads out, or nowhere"));
    const struct stat found = status_of(file.get());
    if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) refuse(relative, cat("'", name, "' in it is no file"));
    struct stat own {};
    if (::fstatat(directory, name.c_str(), &own, 0) != 0 || own.st_dev != found.st_dev || own.st_ino != found.st_ino)
      refuse(relative, "it changes while it is looked at");
  }
}

int open_directory(const std::filesystem::path& root, const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) refuse(path, "it is no path");
  const Descriptor base(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (base.get() < 0) refuse(path, "the root itself cannot be read");
  Descriptor place(open_beneath(base.get(), path.c_str()));
  if (place.get() < 0) {
    if (errno == ENOENT) refuse(path, "nothing is there", ErrorCode::not_found);
    const bool outside = errno == EXDEV;
    refuse(path, outside ? "it leads out" : errno == ENOSYS ? "this kernel has no openat2" : std::strerror(errno));
  }
  if (!S_ISDIR(status_of(place.get()).st_mode)) refuse(path, "it is no directory");
  check_entries(base.get(), place.get(), path);
  return place.release();
}

}  // namespace

Descriptor::~Descriptor() {
  if (file_ >= 0) ::close(file_);
}

int Descriptor::release() { return std::exchange(file_, -1); }

ConfinedDirectory::ConfinedDirectory(const std::filesystem::path& root, std::string_view relative)
    : name_(relative), directory_(open_directory(root, name_)) {}

std::filesystem::path ConfinedDirectory::path() const { return cat("/proc/self/fd/", directory_.get()); }

std::string ConfinedDirectory::said(std::string text) const {
  const std::string own = path().string();
  for (size_t at = text.find(own); at != std::string::npos; at = text.find(own, at + name_.size()))
    text.replace(at, own.size(), name_);
  return text;
}

}  // namespace bumblebee::serve
