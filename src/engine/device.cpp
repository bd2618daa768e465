// What can run models here, for `doctor` and for messages.
#include "bumblebee/device.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>

#include "backend/registry.h"
#include "base/thread_pool.h"

namespace bumblebee {

namespace {

/// The set that a backend chooses by itself: the one BB_CPU names, else the best.
std::string chosen_kernels(const std::vector<std::string>& available) {
  if (available.empty()) return "";
  const char* wanted = std::getenv("BB_CPU");
  const bool there = wanted != nullptr && std::find(available.begin(), available.end(), wanted) != available.end();
  return there ? wanted : available.front();
}

}  // namespace

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> result;
  for (const BackendEntry& entry : backends()) {
    if (!entry.absent().empty()) continue;
    DeviceInfo info;
    info.name = entry.name;
    info.description = entry.describe();
    info.kernels_available = entry.instruction_sets();
    info.kernels = chosen_kernels(info.kernels_available);
    info.threads = available_cores();
    info.memory_bytes =
        uint64_t(std::max(0L, ::sysconf(_SC_PHYS_PAGES))) * uint64_t(std::max(0L, ::sysconf(_SC_PAGESIZE)));
    result.push_back(std::move(info));
  }
  return result;
}

double measure_read_bandwidth(int threads) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kWords = size_t{64} << 20;  // 512 MB: larger than any cache
  std::vector<uint64_t> memory(kWords, 1);
  ThreadPool pool(threads);
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
