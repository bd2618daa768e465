// The wish for huge pages, which the caches of addresses hold more of.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>

namespace bumblebee {

/// What memory and mapped files are aligned to where the system is to use huge pages for them.
inline constexpr size_t kHugePage = size_t{2} << 20;

/// Asks for huge pages under `size` bytes at `p`, the first byte of a page, where these are 2 MB: with pages larger
/// than 4 KB huge ones are 32 MB and more. Does nothing for less than one. A wish: nothing fails.
inline void wish_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] size_t size) {
#ifdef MADV_HUGEPAGE
  if (size >= kHugePage && ::sysconf(_SC_PAGESIZE) == 4096) ::madvise(p, size, MADV_HUGEPAGE);
#endif
}

}  // namespace bumblebee
