// Workers wait on a generation counter: first by spinning, then on a futex (std::atomic::wait). Every word that one
// thread writes while others read lies on a cache line of its own.
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/error.h"

namespace bumblebee {
namespace {

using Clock = std::chrono::steady_clock;

// Waking a sleeper takes 5 to 150 microseconds of its time. Spinning for about as long costs at most twice what the
// better of both would have, and ends far below a time slice, and a millisecond.
constexpr auto kSpin = std::chrono::microseconds(100);
constexpr int kPausesPerLook = 16;  // between two looks at the clock
constexpr int kMostSkipped = 1024;
// Pauses, about half a microsecond: a worker that spins has begun by then.
constexpr int kGrace = 16;

constexpr size_t kLine = 64;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Decides between spinning and sleeping. Spinning in vain, and being woken right after going to sleep, is the sign of
/// a thread that held the processor which the other side needed: then the next waits sleep at once, ever more of them.
class Waiter {
 public:
  /// Returns when ready() is true. sleep() may return early.
  template <class Ready, class Sleep>
  void wait(bool may_spin, Ready ready, Sleep sleep) {
    if (ready()) return;
    const bool spins = may_spin && skip_ == 0;
    skip_ = std::max(0, skip_ - 1);
    Clock::time_point slept;
    if (spins) {
      const auto start = Clock::now();
      do {
        for (int i = 0; i < kPausesPerLook; ++i) {
          pause();
          if (ready()) {
            penalty_ /= 2;
            return;
          }
        }
        slept = Clock::now();
      } while (slept - start < kSpin);
    }
    while (!ready()) sleep();
    if (spins && Clock::now() - slept < kSpin) {
      penalty_ = std::min(2 * penalty_ + 8, kMostSkipped);
      skip_ = penalty_;
    }
  }

 private:
  int skip_ = 0, penalty_ = 0;
};

bool bind_to(std::thread& thread, const std::vector<int>& cpus) {
  if (cpus.empty()) return true;
  const int capacity = *std::max_element(cpus.begin(), cpus.end()) + 1;
  cpu_set_t* set = CPU_ALLOC(capacity);
  if (set == nullptr) return false;
  const size_t size = CPU_ALLOC_SIZE(capacity);
  CPU_ZERO_S(size, set);
  for (int cpu : cpus) CPU_SET_S(cpu, size, set);
  const bool done = pthread_setaffinity_np(thread.native_handle(), size, set) == 0;
  CPU_FREE(set);
  return done;
}

/// Takes a thread that waits for the caller's processor to another one, and leaves its affinity as it was. The system
/// does this by itself, but only when it next balances: on virtual machines, where processors that sleep count as taken
/// and so woken threads queue up behind their waker, that is many milliseconds later.
void move_aside(std::thread& thread) {
  cpu_set_t set;
  const int here = sched_getcpu();
  if (here < 0 || here >= CPU_SETSIZE) return;
  if (pthread_getaffinity_np(thread.native_handle(), sizeof set, &set) != 0) return;
  if (!CPU_ISSET(here, &set) || CPU_COUNT(&set) < 2) return;
  cpu_set_t elsewhere = set;
  CPU_CLR(here, &elsewhere);
  if (pthread_setaffinity_np(thread.native_handle(), sizeof elsewhere, &elsewhere) == 0)
    pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

/// Whether a worker that missed so many loops in a row should be moved: soon, and then ever more rarely.
bool should_move(uint32_t missed) { return missed == 2 || (missed >= 32 && (missed & (missed - 1)) == 0); }

}  // namespace

struct ThreadPool::State {
  explicit State(ThreadPlan p) : plan(std::move(p)), parts(size_t(plan.threads())), missed(parts.size()) {}

  /// A worker's part of the loop of a generation: claimed by the worker or by the caller, and done.
  struct alignas(kLine) Part {
    std::atomic<uint32_t> claimed{0}, done{0};
    std::atomic<bool> wanted{false};  // the caller sleeps until it is done
    bool claim(uint32_t loop) {
      uint32_t last = loop - 1;
      return claimed.load(std::memory_order_relaxed) == last && claimed.compare_exchange_strong(last, loop);
    }
  };

  /// The pieces of a part that were begun, of the loop of pieces that `count` names: loop * kMostPieces + pieces.
  /// Counts of past loops are smaller, so nobody sets them back.
  struct alignas(kLine) Begun {
    std::atomic<uint64_t> count{0};
    /// The next piece of the loop whose counts start at `base`, or -1 where all were begun.
    int next(uint64_t base, int pieces) {
      uint64_t seen = count.load(std::memory_order_relaxed);
      for (;;) {
        const uint64_t now = std::max(seen, base);
        if (now >= base + uint64_t(pieces)) return -1;
        if (count.compare_exchange_weak(seen, now + 1, std::memory_order_relaxed)) return int(now - base);
      }
    }
  };

  ThreadPlan plan;
  int refused_bindings = 0;
  std::vector<Part> parts;  // [0] is the caller's and unused
  std::vector<Begun> begun{parts.size()};
  uint64_t piece_loops = 0;  // of run_pieces(), so far; the caller's
  std::vector<std::thread> workers;
  std::vector<uint32_t> missed;  // per part, loops in a row that its worker came too late for

  alignas(kLine) Waiter caller;

  // Written once per loop. Sequentially consistent where a sleeper and its waker each write one word and read the
  // other's: one of them sees the other.
  alignas(kLine) std::atomic<uint32_t> generation{0};
  const FunctionRef<void(int)>* body = nullptr;
  std::atomic<bool> stop{false};

  alignas(kLine) std::atomic<uint32_t> sleepers{0};
  alignas(kLine) std::atomic<int64_t> next{0};     // for_each's counter
  alignas(kLine) std::atomic<int> parts_begun{0};  // of run_pieces(): parts of which all pieces were begun
  alignas(kLine) std::atomic<bool> running{false};

  void work(int thread) {
    Part& part = parts[size_t(thread)];
    const bool may_spin = !plan.crowded;
    Waiter waiter;
    for (uint32_t seen = 0;;) {
      waiter.wait(
          may_spin, [&] { return generation.load(std::memory_order_acquire) != seen; },
          [&] {
            sleepers.fetch_add(1);
            if (generation.load() == seen) generation.wait(seen);
            sleepers.fetch_sub(1);
          });
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (!part.claim(seen)) continue;  // the caller was here first
      (*body)(thread);
      part.done.store(seen);
      if (part.wanted.load()) part.done.notify_one();
    }
  }

  /// Parts in the order in which `thread` looks for pieces: its own, those of its node, the others'. Ends where visit()
  /// says so.
  template <class Visit>
  void each_part_from(int thread, Visit visit) const {
    NodeThreads own{.first = 0, .last = plan.threads()};
    for (const NodeThreads& node : plan.nodes) {
      if (node.first <= thread && thread < node.last) own = node;
    }
    const int here = own.last - own.first, others = plan.threads() - here;
    for (int i = 0; i < here; ++i) {
      if (!visit(own.first + (thread - own.first + i) % here)) return;
    }
    for (int i = 0; i < others; ++i) {
      if (!visit((own.last + i) % plan.threads())) return;
    }
  }

  void publish() {
    generation.fetch_add(1);
    if (sleepers.load() != 0) generation.notify_all();
  }

  void end() {
    stop.store(true, std::memory_order_relaxed);
    publish();
    for (std::thread& worker : workers) worker.join();
  }

  void await(Part& part, uint32_t loop) {
    caller.wait(
        !plan.crowded, [&] { return part.done.load(std::memory_order_acquire) == loop; },
        [&] {
          part.wanted.store(true);
          const uint32_t now = part.done.load();
          if (now != loop) part.done.wait(now);
          part.wanted.store(false, std::memory_order_relaxed);
        });
  }
};

int available_cores() { return default_threads(this_machine()); }

ThreadPool::ThreadPool(int threads, Pin pin) : ThreadPool(plan_threads(this_machine(), threads, pin)) {}

ThreadPool::ThreadPool(ThreadPlan plan) : state_(std::make_unique<State>(std::move(plan))) {
  try {
    for (int i = 1; i < threads(); ++i) {
      std::thread& worker = state_->workers.emplace_back([s = state_.get(), i] { s->work(i); });
      if (!bind_to(worker, state_->plan.bound[size_t(i)])) ++state_->refused_bindings;
    }
  } catch (...) {  // the system has no thread left: those that began end
    state_->end();
    throw;
  }
}

ThreadPool::~ThreadPool() { state_->end(); }

int ThreadPool::threads() const { return state_->plan.threads(); }
const ThreadPlan& ThreadPool::plan() const { return state_->plan; }
int ThreadPool::refused_bindings() const { return state_->refused_bindings; }

void ThreadPool::run(FunctionRef<void(int)> body) {
  State& s = *state_;
  if (s.workers.empty()) return body(0);
  BB_DCHECK(!s.running.exchange(true), "ThreadPool::run is not reentrant");
  s.body = &body;
  s.publish();
  const uint32_t loop = s.generation.load(std::memory_order_relaxed);
  body(0);
  // A worker that has not begun by now has probably lost its processor, and may be away for as long again or longer:
  // doing its part here takes at most twice the time that waiting could have.
  const int count = threads();
  int grace = kGrace;
  for (int i = 1; i < count; ++i) {
    State::Part& part = s.parts[size_t(i)];
    uint32_t& missed = s.missed[size_t(i)];
    for (; grace > 0 && part.claimed.load(std::memory_order_relaxed) != loop; --grace) pause();
    if (!part.claim(loop)) {
      if (missed != 0) missed = 0;
      continue;
    }
    if (should_move(++missed) && !s.plan.crowded) move_aside(s.workers[size_t(i) - 1]);
    body(i);
    part.done.store(loop, std::memory_order_relaxed);
  }
  for (int i = 1; i < count; ++i) s.await(s.parts[size_t(i)], loop);
  s.running.store(false, std::memory_order_relaxed);
}

void ThreadPool::run_pieces(int pieces, FunctionRef<void(int, int, int)> body) {
  BB_CHECK(pieces >= 1 && pieces <= kMostPieces, "pieces ", pieces);
  State& s = *state_;
  if (s.workers.empty()) {
    for (int piece = 0; piece < pieces; ++piece) body(0, piece, 0);
    return;
  }
  // Whole parts are what run() hands out, and the caller takes those that nobody began.
  if (pieces == 1) return run([&](int thread) { body(thread, 0, thread); });
  const int parts = threads();
  const uint64_t base = ++s.piece_loops * uint64_t(kMostPieces);
  s.parts_begun.store(0, std::memory_order_relaxed);
  run([&](int thread) {
    s.each_part_from(thread, [&](int part) {
      for (int piece; (piece = s.begun[size_t(part)].next(base, pieces)) >= 0;) {
        if (piece == pieces - 1) s.parts_begun.fetch_add(1, std::memory_order_relaxed);
        body(part, piece, thread);
      }
      return s.parts_begun.load(std::memory_order_relaxed) < parts;  // else nobody has anything left
    });
  });
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
    const Range part = share(count, grain, thread, thread + 1, n);
    if (part.size() > 0) body(part.first, part.last, thread);
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
