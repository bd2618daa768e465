// Workers wait on a generation counter: first by spinning, then on a futex (std::atomic::wait).
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/error.h"

namespace bumblebee {
namespace {

// A pause takes 40 to 140 cycles, so this is 15 to 60 microseconds: longer than the gap between two operations of a
// step, far shorter than a time slice.
constexpr int kSpins = 1000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits until `value` is no longer `old`.
void wait_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::atomic<uint32_t> generation{0};  // rises once per loop; workers wait on it
  std::atomic<uint32_t> pending{0};     // workers still busy with this generation
  std::atomic<int64_t> next{0};         // for_each's counter
  const FunctionRef<void(int)>* body = nullptr;
  bool stop = false;

  void work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      wait_change(generation, seen);
      seen = generation.load(std::memory_order_acquire);
      if (stop) return;
      (*body)(thread);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }
};

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, int(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int count = threads > 0 ? threads : available_cores();
  for (int i = 1; i < count; ++i) state_->workers.emplace_back([s = state_.get(), i] { s->work(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return int(state_->workers.size()) + 1; }

void ThreadPool::run(FunctionRef<void(int)> body) {
  State& s = *state_;
  if (s.workers.empty()) return body(0);
  BB_DCHECK(s.pending.load() == 0, "ThreadPool::run is not reentrant");
  s.body = &body;
  s.pending.store(uint32_t(s.workers.size()), std::memory_order_relaxed);
  s.generation.fetch_add(1, std::memory_order_release);
  s.generation.notify_all();
  body(0);
  for (uint32_t left = s.pending.load(std::memory_order_acquire); left != 0;
       left = s.pending.load(std::memory_order_acquire)) {
    wait_change(s.pending, left);
  }
}

void ThreadPool::for_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t, int)> body) {
  const int64_t units = (count + grain - 1) / grain;
  const int64_t n = std::min<int64_t>(threads(), units);
  if (n <= 1) {
    if (count > 0) body(0, count, 0);
    return;
  }
  run([&](int thread) {
    if (thread >= n) return;
    const int64_t first = units * thread / n * grain;
    const int64_t last = std::min(count, units * (thread + 1) / n * grain);
    if (first < last) body(first, last, thread);
  });
}

void ThreadPool::for_each(int64_t count, FunctionRef<void(int64_t, int)> body) {
  if (count <= 1 || threads() == 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t>& next = state_->next;
  next.store(0, std::memory_order_relaxed);
  run([&](int thread) {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      body(i, thread);
    }
  });
}

}  // namespace bumblebee
