// What a parallel loop costs by itself: bench_threads [THREADS] [--small]. Prints, for a pool of THREADS threads (2)
// and for one thread, the time of a loop whose parts are empty or short, back to back, after a pause of the caller's
// own work, and after sleep, and the processor time that the pool uses when nobody calls it. Under `taskset -c 0` the
// same figures say what too many threads cost.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_pool.h"

namespace bumblebee::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// Computes for about this long, whatever else runs: a number of steps, calibrated once.
class Work {
 public:
  Work() {
    constexpr int64_t kSteps = 20'000'000;
    const auto start = Clock::now();
    spend(kSteps);
    per_second_ = double(kSteps) / seconds_since(start);
  }
  void operator()(double seconds) const { spend(int64_t(seconds * per_second_)); }

 private:
  static void spend(int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) asm volatile("" ::: "memory");
  }
  double per_second_ = 0;
};

/// Nanoseconds of one call of `body`: the median of several rounds, and the best.
template <class Body>
void report(const char* name, int threads, int calls, int rounds, Body body) {
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) body();
    times.push_back(1e9 * seconds_since(start) / calls);
  }
  std::sort(times.begin(), times.end());
  std::printf("%-44s %3d threads  median %12.0f ns  best %12.0f ns  worst %12.0f ns\n", name, threads,
              times[times.size() / 2], times.front(), times.back());
}

void measure(int threads, const Work& work, bool small) {
  ThreadPool pool(threads);
  const int rounds = small ? 2 : 21, calls = small ? 10 : 1000;
  const auto share = [&](double total) { return total / pool.threads(); };
  pool.run([](int) {});
  report("empty", threads, calls, rounds, [&] { pool.run([](int) {}); });
  report("2 us of work", threads, calls, rounds, [&] { pool.run([&](int) { work(share(2e-6)); }); });
  report("20 us of work", threads, calls, rounds, [&] { pool.run([&](int) { work(share(20e-6)); }); });
  report("20 us of work, 10 us by the caller between", threads, calls, rounds, [&] {
    pool.run([&](int) { work(share(20e-6)); });
    work(10e-6);
  });
  report("1 ms of work", threads, small ? 2 : 50, rounds, [&] { pool.run([&](int) { work(share(1e-3)); }); });
  std::vector<double> woken;
  for (int i = 0; i < (small ? 2 : 100); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    const auto start = Clock::now();
    pool.run([&](int) { work(share(200e-6)); });
    woken.push_back(1e9 * seconds_since(start));
  }
  std::sort(woken.begin(), woken.end());
  std::printf("%-44s %3d threads  median %12.0f ns  best %12.0f ns  worst %12.0f ns\n",
              "200 us of work after 3 ms of sleep", threads, woken[woken.size() / 2], woken.front(), woken.back());

  // Processor time of all threads in the first millisecond after a loop, and in the time after it.
  double first = 0, later = 0;
  const int pauses = small ? 2 : 100;
  for (int i = 0; i < pauses; ++i) {
    pool.run([](int) {});
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const double between = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(4));
    first += between - before;
    later += cpu_seconds() - between;
  }
  std::printf("%-44s %3d threads  first ms %8.1f us  next 4 ms %8.1f us\n", "idle: processor time per loop", threads,
              1e6 * first / pauses, 1e6 * later / pauses);
}

}  // namespace
}  // namespace bumblebee::bench

int main(int count, char** arguments) {
  bool small = false;
  int threads = 2;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--small") == 0) {
      small = true;
    } else {
      threads = std::atoi(arguments[i]);
    }
  }
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "bench_threads: threads: expected 1 to 1024\n");
    return 2;
  }
  const bumblebee::bench::Work work;
  bumblebee::bench::measure(1, work, small);
  if (threads > 1) bumblebee::bench::measure(threads, work, small);
}
