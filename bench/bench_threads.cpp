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

void print(const std::string& name, int threads, std::vector<double> nanoseconds) {
  std::sort(nanoseconds.begin(), nanoseconds.end());
  std::printf("%-58s %3d threads  median %9.0f ns  best %9.0f ns  worst %9.0f ns\n", name.c_str(), threads,
              nanoseconds[nanoseconds.size() / 2], nanoseconds.front(), nanoseconds.back());
}

/// Nanoseconds of one call of `body`: the median of several rounds, and the best.
template <class Body>
void report(const char* name, int threads, int calls, int rounds, Body body) {
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) body();
    times.push_back(1e9 * seconds_since(start) / calls);
  }
  print(name, threads, times);
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
  // A step after a pause: 100 loops of 100 us of work, and the first of them by itself.
  for (const int pause : {3, 50}) {
    std::vector<double> first, step;
    for (int i = 0; i < (small ? 2 : 40); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(pause));
      const auto start = Clock::now();
      for (int loop = 0; loop < 100; ++loop) {
        pool.run([&](int) { work(share(100e-6)); });
        if (loop == 0) first.push_back(1e9 * seconds_since(start));
      }
      step.push_back(1e9 * seconds_since(start) / 100);
    }
    const std::string after = " 100 us of work after " + std::to_string(pause) + " ms of sleep";
    print("first loop of" + after, threads, first);
    print("mean of 100 loops of" + after, threads, step);
  }

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
  std::printf("%-58s %3d threads  first ms %8.1f us  next 4 ms %8.1f us\n", "idle: processor time per loop", threads,
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
