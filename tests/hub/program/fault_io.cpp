// Preloaded into the program (LD_PRELOAD) to break the file system below one directory, where mounting a small or
// read-only one would need privileges that a test machine may not give.
//   BB_FAULT_DIR   the directory
//   BB_FAULT       readonly     whatever would change it fails with EROFS
//                  nolinks      symbolic and hard links fail with EPERM, as on exFAT
//                  nolocks      flock and fcntl locks succeed and lock nothing, as some network file systems do
//                  full:BYTES   writes fail with ENOSPC once so many bytes have been written by this process
//                  nosync       fsync fails with EIO
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>

namespace {

bool fault_is(const char* name) {
  const char* value = getenv("BB_FAULT");
  return value != nullptr && strncmp(value, name, strlen(name)) == 0;
}

bool below(const char* path) {
  const char* directory = getenv("BB_FAULT_DIR");
  return directory != nullptr && path != nullptr && strncmp(path, directory, strlen(directory)) == 0;
}

bool below(int file, const char* path) {
  if (path != nullptr && (path[0] == '/' || file == AT_FDCWD)) return below(path);
  char link[64], target[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, target, sizeof target - 1);
  if (size <= 0) return false;
  target[size] = '\0';
  return below(target);
}

bool refuses_change(int file, const char* path) {
  if (!fault_is("readonly") || !below(file, path)) return false;
  errno = EROFS;
  return true;
}

bool refuses_link(int file, const char* path) {
  if (refuses_change(file, path)) return true;
  if (!fault_is("nolinks") || !below(file, path)) return false;
  errno = EPERM;
  return true;
}

std::atomic<unsigned long long> written{0};

bool refuses_bytes(int file, size_t size) {
  if (!fault_is("full:") || !below(file, nullptr)) return false;
  if (written.fetch_add(size) + size <= strtoull(getenv("BB_FAULT") + 5, nullptr, 10)) return false;
  errno = ENOSPC;
  return true;
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) != 0; }

mode_t mode_of(int flags, va_list list) { return (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode_t(va_arg(list, int)) : 0; }

}  // namespace

#define BB_WITH_MODE                        \
  va_list list;                             \
  va_start(list, flags);                    \
  const mode_t mode = mode_of(flags, list); \
  va_end(list)

extern "C" {

int open(const char* path, int flags, ...) {
  BB_WITH_MODE;
  if (writes(flags) && refuses_change(AT_FDCWD, path)) return -1;
  return next<int(const char*, int, ...)>("open")(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  BB_WITH_MODE;
  if (writes(flags) && refuses_change(AT_FDCWD, path)) return -1;
  return next<int(const char*, int, ...)>("open64")(path, flags, mode);
}
int openat(int at, const char* path, int flags, ...) {
  BB_WITH_MODE;
  if (writes(flags) && refuses_change(at, path)) return -1;
  return next<int(int, const char*, int, ...)>("openat")(at, path, flags, mode);
}
int openat64(int at, const char* path, int flags, ...) {
  BB_WITH_MODE;
  if (writes(flags) && refuses_change(at, path)) return -1;
  return next<int(int, const char*, int, ...)>("openat64")(at, path, flags, mode);
}
FILE* fopen(const char* path, const char* how) {
  if (strpbrk(how, "wa+") != nullptr && refuses_change(AT_FDCWD, path)) return nullptr;
  return next<FILE*(const char*, const char*)>("fopen")(path, how);
}
FILE* fopen64(const char* path, const char* how) {
  if (strpbrk(how, "wa+") != nullptr && refuses_change(AT_FDCWD, path)) return nullptr;
  return next<FILE*(const char*, const char*)>("fopen64")(path, how);
}
int mkstemp(char* path) { return refuses_change(AT_FDCWD, path) ? -1 : next<int(char*)>("mkstemp")(path); }
int mkostemp(char* path, int flags) {
  return refuses_change(AT_FDCWD, path) ? -1 : next<int(char*, int)>("mkostemp")(path, flags);
}
int mkdir(const char* path, mode_t mode) noexcept {
  if (refuses_change(AT_FDCWD, path)) {
    errno = access(path, F_OK) == 0 ? EEXIST : EROFS;  // as Linux orders the two
    return -1;
  }
  return next<int(const char*, mode_t)>("mkdir")(path, mode);
}
int rename(const char* from, const char* to) noexcept {
  return refuses_change(AT_FDCWD, to) ? -1 : next<int(const char*, const char*)>("rename")(from, to);
}
int renameat(int at, const char* from, int there, const char* to) noexcept {
  return refuses_change(there, to) ? -1
                                   : next<int(int, const char*, int, const char*)>("renameat")(at, from, there, to);
}
int unlink(const char* path) noexcept {
  return refuses_change(AT_FDCWD, path) ? -1 : next<int(const char*)>("unlink")(path);
}
int symlink(const char* target, const char* path) noexcept {
  return refuses_link(AT_FDCWD, path) ? -1 : next<int(const char*, const char*)>("symlink")(target, path);
}
int symlinkat(const char* target, int at, const char* path) noexcept {
  return refuses_link(at, path) ? -1 : next<int(const char*, int, const char*)>("symlinkat")(target, at, path);
}
int link(const char* target, const char* path) noexcept {
  return refuses_link(AT_FDCWD, path) ? -1 : next<int(const char*, const char*)>("link")(target, path);
}
ssize_t write(int file, const void* data, size_t size) {
  return refuses_bytes(file, size) ? -1 : next<ssize_t(int, const void*, size_t)>("write")(file, data, size);
}
ssize_t pwrite(int file, const void* data, size_t size, off_t at) {
  return refuses_bytes(file, size) ? -1
                                   : next<ssize_t(int, const void*, size_t, off_t)>("pwrite")(file, data, size, at);
}
ssize_t pwrite64(int file, const void* data, size_t size, off64_t at) {
  if (refuses_bytes(file, size)) return -1;
  return next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64")(file, data, size, at);
}
ssize_t writev(int file, const iovec* blocks, int count) {
  size_t size = 0;
  for (int i = 0; i < count; ++i) size += blocks[i].iov_len;
  return refuses_bytes(file, size) ? -1 : next<ssize_t(int, const iovec*, int)>("writev")(file, blocks, count);
}
int flock(int file, int operation) noexcept {
  if (fault_is("nolocks") && below(file, nullptr)) return 0;
  return next<int(int, int)>("flock")(file, operation);
}
int fsync(int file) {
  if (fault_is("nosync") && below(file, nullptr)) {
    errno = EIO;
    return -1;
  }
  return next<int(int)>("fsync")(file);
}

}  // extern "C"
