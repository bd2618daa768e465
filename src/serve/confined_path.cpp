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

#include "base/error.h"

namespace bumblebee::serve {

namespace {

[[noreturn]] void refuse(std::string_view relative, std::string_view why) {
  throw Error(
      ErrorCode::bad_request, "lora_path",
      cat("expected a directory below the server's --adapter-root, got '", relative.substr(0, 200), "': ", why));
}

class Descriptor {
 public:
  explicit Descriptor(int file) : file_(file) {}
  ~Descriptor() {
    if (file_ >= 0) ::close(file_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return file_; }

 private:
  int file_;
};

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
/// is.
void check_entries(int root, int directory, const std::string& relative) {
  const Descriptor readable(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (readable.get() < 0) refuse(relative, std::strerror(errno));
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(::dup(readable.get())), ::closedir);
  if (!entries) refuse(relative, std::strerror(errno));
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    const Descriptor file(open_beneath(root, (relative + "/" + name).c_str()));
    if (file.get() < 0) refuse(relative, cat("'", name, "' in it leads out, or nowhere"));
    const mode_t mode = status_of(file.get()).st_mode;
    if (!S_ISREG(mode) && !S_ISDIR(mode)) refuse(relative, cat("'", name, "' in it is no file"));
  }
}

}  // namespace

std::filesystem::path confined_path(const std::filesystem::path& root, std::string_view relative) {
  const std::string path(relative);
  if (path.empty() || path.find('\0') != std::string::npos) refuse(relative, "it is no path");
  const Descriptor base(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (base.get() < 0) refuse(relative, "the root itself cannot be read");
  const Descriptor place(open_beneath(base.get(), path.c_str()));
  if (place.get() < 0) {
    const bool outside = errno == EXDEV;
    refuse(relative, outside ? "it leads out" : errno == ENOSYS ? "this kernel has no openat2" : std::strerror(errno));
  }
  const mode_t mode = status_of(place.get()).st_mode;
  if (!S_ISDIR(mode)) refuse(relative, "it is no directory");
  check_entries(base.get(), place.get(), path);
  std::error_code error;
  std::filesystem::path real = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(place.get()), error);
  if (error) refuse(relative, error.message());
  return real;
}

}  // namespace bumblebee::serve
