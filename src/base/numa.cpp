// get_mempolicy(2), set_mempolicy(2), move_pages(2) without libnuma. Policies of a range (mbind) are of no use here:
// the kernel ignores them for pages of files, and weights are pages of files.
#include "base/numa.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "base/error.h"

namespace bumblebee {
namespace {

// From <linux/mempolicy.h>, which not every system installs.
constexpr int kDefault = 0, kPreferred = 1;
constexpr int kMove = 1 << 1;

// One call of move_pages: enough to amortise the call, few enough to live on the stack.
constexpr size_t kBatch = 512;
constexpr int kAttempts = 20;

#if defined(__linux__)
long get_policy(int* mode, unsigned long* nodes, unsigned long bits) {
  return ::syscall(SYS_get_mempolicy, mode, nodes, bits, nullptr, 0UL);
}
long set_policy(int mode, const unsigned long* nodes, unsigned long bits) {
  return ::syscall(SYS_set_mempolicy, mode, nodes, bits);
}
/// `nodes` null: only asks.
long move_pages(size_t count, const void* const* pages, const int* nodes, int* status) {
  return ::syscall(SYS_move_pages, 0, static_cast<unsigned long>(count), pages, nodes, status, kMove);
}
#else
long get_policy(int*, unsigned long*, unsigned long) { return errno = ENOSYS, -1; }
long set_policy(int, const unsigned long*, unsigned long) { return errno = ENOSYS, -1; }
long move_pages(size_t, const void* const*, const int*, int*) { return errno = ENOSYS, -1; }
#endif

/// Makes every page present: one call where the kernel knows it, else a read of each.
void bring_in(std::span<const std::byte> pages) {
#if defined(MADV_POPULATE_READ)
  if (::madvise(const_cast<std::byte*>(pages.data()), pages.size(), MADV_POPULATE_READ) == 0) return;
#endif
  for (size_t at = 0; at < pages.size(); at += memory_page_size())
    static_cast<void>(*static_cast<const volatile std::byte*>(pages.data() + at));
}

/// Another processor has the page in its hands for a moment, or another thread is moving the huge page that it is part
/// of (for the kernel there is then no page at all).
bool is_passing(int status) { return status == -EBUSY || status == -EAGAIN || status == -EFAULT || status == -ENOENT; }

}  // namespace

PlacedPages& PlacedPages::operator+=(const PlacedPages& other) {
  pages += other.pages;
  on_node += other.on_node;
  if (error == 0) error = other.error;
  return *this;
}

std::string to_string(const PlacedPages& placed) {
  std::string text = cat(placed.on_node, " of ", placed.pages, " pages on their nodes");
  if (placed.error != 0) text += cat(" (", std::strerror(placed.error), ")");
  return text;
}

size_t memory_page_size() {
  static const size_t size = size_t(std::max(1L, ::sysconf(_SC_PAGESIZE)));
  return size;
}

std::span<const std::byte> whole_pages(std::span<const std::byte> bytes) {
  const size_t page = memory_page_size();
  const auto up = [page](uintptr_t address) { return (address + page - 1) / page * page; };
  const uintptr_t start = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = up(start), last = up(start + bytes.size());
  // The end of the last page may lie beyond the range; it is mapped all the same, since its beginning is.
  return {bytes.data() + (first - start), bytes.empty() ? 0 : last - first};
}

PlacedPages place_on_node(std::span<const std::byte> bytes, int node) {
  const std::span<const std::byte> range = whole_pages(bytes);
  const size_t page = memory_page_size();
  PlacedPages placed;
  const void* pages[kBatch];
  int nodes[kBatch], status[kBatch];
  const PreferNode prefer(node);
  for (size_t at = 0; at < range.size(); at += kBatch * page) {
    const size_t count = std::min(kBatch, (range.size() - at) / page);
    for (size_t i = 0; i < count; ++i) {
      pages[i] = range.data() + at + i * page;
      nodes[i] = node;
      status[i] = -ENOENT;
    }
    bring_in(range.subspan(at, count * page));
    placed.pages += count;
    long result = move_pages(count, pages, nodes, status);
    for (int again = 0; again < kAttempts && result >= 0 && std::any_of(status, status + count, is_passing); ++again) {
      ::sched_yield();
      result = move_pages(count, pages, nodes, status);
    }
    if (result < 0) {
      if (placed.error == 0) placed.error = errno;
      continue;
    }
    for (size_t i = 0; i < count; ++i) {
      if (status[i] == node) ++placed.on_node;
      if (status[i] < 0 && placed.error == 0) placed.error = -status[i];
    }
  }
  return placed;
}

int node_of(const std::byte* address) {
  const uintptr_t page = memory_page_size();
  const void* start = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(address) / page * page);
  int status = -1;
  return move_pages(1, &start, nullptr, &status) == 0 && status >= 0 ? status : -1;
}

PreferNode::PreferNode(int node) {
  constexpr unsigned long kWordBits = 8 * sizeof(unsigned long), kBits = kWords * kWordBits;
  if (node < 0 || static_cast<unsigned long>(node) >= kBits) return;
  if (get_policy(&mode_, nodes_, kBits) != 0) return;
  unsigned long wanted[kWords] = {};
  wanted[static_cast<unsigned long>(node) / kWordBits] |= 1UL << (static_cast<unsigned long>(node) % kWordBits);
  granted_ = set_policy(kPreferred, wanted, kBits) == 0;
}

PreferNode::~PreferNode() {
  if (!granted_) return;
  constexpr unsigned long kBits = kWords * 8 * sizeof(unsigned long);
  const bool none = std::all_of(nodes_, nodes_ + kWords, [](unsigned long word) { return word == 0; });
  if (set_policy(mode_, none ? nullptr : nodes_, none ? 0 : kBits) != 0) set_policy(kDefault, nullptr, 0);
}

PlacedPages try_placement(int node) {
  const size_t page = memory_page_size();
  struct Unmap {
    size_t size;
    void operator()(std::byte* p) const { ::munmap(p, size); }
  };
  void* memory = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return {.pages = 1, .on_node = 0, .error = errno};
  const std::unique_ptr<std::byte, Unmap> owner(static_cast<std::byte*>(memory), Unmap{page});
  *owner = std::byte{1};  // of its own: a page that was only read is the system's page of zeros, which stays
  return place_on_node({owner.get(), page}, node);
}

}  // namespace bumblebee
