// Memory that ends where nobody may touch anything: what reads or writes past the end dies there, whatever instruction
// does it, which no sanitizer sees in a vector kernel. For debug builds and tests; an allocation costs system calls.
#pragma once

#include <cstddef>
#include <memory>

namespace bumblebee {

/// `size` bytes at a multiple of `alignment` (a power of two, at most a page); the unmapped page begins at the first
/// such multiple behind them. Every byte is 0xff: no float of any width is a number. Throws std::bad_alloc.
std::byte* map_guarded(size_t size, size_t alignment);
void unmap_guarded(std::byte* p, size_t size, size_t alignment);

}  // namespace bumblebee
