// Sums an array that no cache holds, for about a second, and keeps the best pass.
#include "base/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/huge_pages.h"
#include "base/thread_pool.h"

namespace bumblebee {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

/// In huge pages where the system has them: what memory gives, and not what looking up an address for every 4 KB leaves
/// of it.
std::unique_ptr<uint64_t[], Free> allocate(size_t words) {
  const size_t bytes = words * sizeof(uint64_t);
  std::unique_ptr<uint64_t[], Free> memory(static_cast<uint64_t*>(std::aligned_alloc(kHugePage, bytes)));
  if (memory == nullptr) throw std::bad_alloc();
  wish_huge_pages(memory.get(), bytes);
  return memory;
}

}  // namespace

double read_bandwidth(int threads) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kWords = size_t{64} << 20;  // 512 MB: larger than any cache
  const auto memory = allocate(kWords);
  ThreadPool pool(threads);
  // Written first by the threads that read it, so that with several nodes each reads its own.
  pool.for_ranges(int64_t(kWords), 4096,
                  [&](int64_t first, int64_t last, int) { std::fill(memory.get() + first, memory.get() + last, 1); });
  std::atomic<uint64_t> sink{0};  // keeps the reads alive
  double best = 0;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    pool.for_ranges(int64_t(kWords), 4096, [&](int64_t first, int64_t last, int) {
      uint64_t sums[8] = {};
      int64_t i = first;
      for (; i + 8 <= last; i += 8) {
        for (int lane = 0; lane < 8; ++lane) sums[lane] += memory[size_t(i + lane)];
      }
      uint64_t sum = 0;
      for (uint64_t s : sums) sum += s;
      sink.fetch_add(sum, std::memory_order_relaxed);
    });
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, double(kWords * sizeof(uint64_t)) / elapsed);
  } while (Clock::now() - start < std::chrono::milliseconds(900));
  return best;
}

}  // namespace bumblebee
