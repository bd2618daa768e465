// A mapping with one page more than is needed, whose last page is closed.
#include "base/guarded_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace bumblebee {
namespace {

size_t page() {
  static const size_t bytes = size_t(::sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t round_up(size_t size, size_t step) { return (size + step - 1) / step * step; }

}  // namespace

std::byte* map_guarded(size_t size, size_t alignment) {
  const size_t used = round_up(size, alignment), open = round_up(used, page());
  if (used < size || open < used) throw std::bad_alloc();
  void* const begin = ::mmap(nullptr, open + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) throw std::bad_alloc();
  std::byte* const end = static_cast<std::byte*>(begin) + open;
  if (::mprotect(end, page(), PROT_NONE) != 0) {
    ::munmap(begin, open + page());
    throw std::bad_alloc();
  }
  std::memset(end - used, 0xff, used);
  return end - used;
}

void unmap_guarded(std::byte* p, size_t size, size_t alignment) {
  const size_t used = round_up(size, alignment), open = round_up(used, page());
  ::munmap(p + used - open, open + page());
}

}  // namespace bumblebee
