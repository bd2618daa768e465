// Counts, and fails once.
#include "tests/support/failing_new.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace bumblebee::testing_support {
namespace {

std::atomic<int64_t> g_left{0};  // allocations until one fails; 0 and below: none will
std::atomic<int64_t> g_live{0};

bool fails_now() { return g_left.load() > 0 && g_left.fetch_sub(1) == 1; }

}  // namespace

AllocationFailure::AllocationFailure(int64_t n) { g_left = n; }
AllocationFailure::~AllocationFailure() { g_left = 0; }
bool AllocationFailure::happened() const { return g_left <= 0; }

int64_t live_allocations() { return g_live; }

namespace {

void* allocate_or_null(size_t size, size_t alignment) noexcept {
  void* p = nullptr;
  if (fails_now() || ::posix_memalign(&p, alignment, size == 0 ? 1 : size) != 0) return nullptr;
  ++g_live;
  return p;
}

void* allocate(size_t size, size_t alignment) {
  void* p = allocate_or_null(size, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void release(void* p) {
  if (p == nullptr) return;
  --g_live;
  std::free(p);
}

}  // namespace
}  // namespace bumblebee::testing_support

namespace support = bumblebee::testing_support;

// Forms for arrays call these, or a sanitizer's own, which agree among themselves. The forms that return null are freed
// by the deletes below and therefore stand here.
void* operator new(size_t size) { return support::allocate(size, alignof(std::max_align_t)); }
void* operator new(size_t size, std::align_val_t alignment) { return support::allocate(size, size_t(alignment)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return support::allocate_or_null(size, alignof(std::max_align_t));
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return support::allocate_or_null(size, size_t(alignment));
}
void operator delete(void* p) noexcept { support::release(p); }
void operator delete(void* p, size_t) noexcept { support::release(p); }
void operator delete(void* p, std::align_val_t) noexcept { support::release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { support::release(p); }

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" void* aligned_alloc(size_t alignment, size_t size) noexcept {
  void* p = nullptr;
  return support::fails_now() || ::posix_memalign(&p, alignment, size) != 0 ? nullptr : p;
}
#endif
