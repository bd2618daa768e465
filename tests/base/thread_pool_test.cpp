// Every index is visited exactly once for every partition, results of one loop are seen by the next, and a pool
// survives many loops. The same tests run under ThreadSanitizer in the tsan preset.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace bumblebee {
namespace {

constexpr int kThreads[] = {1, 2, 3, 4, 7};

TEST(ThreadPool, RunsOncePerThread) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    std::vector<int> visits(size_t(threads), 0);
    pool.run([&](int thread) { ++visits[size_t(thread)]; });
    EXPECT_EQ(visits, std::vector<int>(size_t(threads), 1));
  }
}

TEST(ThreadPool, TheCallerIsThreadZero) {
  ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> right{0};
  pool.run([&](int thread) { right += (thread == 0) == (std::this_thread::get_id() == caller); });
  EXPECT_EQ(right, 3);
}

TEST(ThreadPool, ZeroMeansOnePerCore) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_EQ(ThreadPool(0).threads(), available_cores());
}

TEST(ThreadPool, RangesCoverEveryIndexOnce) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 8, 31, 32, 33, 100, 1000}) {
      for (const int64_t grain : {1, 2, 3, 8, 16, 64, 2000}) {
        std::vector<int> visits(size_t(count), 0);
        std::atomic<int> misaligned{0};
        pool.for_ranges(count, grain, [&](int64_t first, int64_t last, int thread) {
          misaligned += first % grain != 0 || (last % grain != 0 && last != count) || first >= last || thread < 0 ||
                        thread >= threads;
          for (int64_t i = first; i < last; ++i) ++visits[size_t(i)];
        });
        ASSERT_EQ(visits, std::vector<int>(size_t(count), 1)) << threads << " threads, " << count << " by " << grain;
        ASSERT_EQ(misaligned, 0) << threads << " threads, " << count << " by " << grain;
      }
    }
  }
}

TEST(ThreadPool, RangesUseEveryThreadWhenThereIsEnough) {
  ThreadPool pool(4);
  std::vector<int64_t> share(4, 0);
  pool.for_ranges(1000, 8, [&](int64_t first, int64_t last, int thread) { share[size_t(thread)] += last - first; });
  for (const int64_t part : share) EXPECT_NEAR(double(part), 250.0, 8.0);
}

TEST(ThreadPool, EachHandsOutEveryIndexOnce) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 5, 100, 1000}) {
      std::vector<int> visits(size_t(count), 0);
      pool.for_each(count, [&](int64_t i, int) { ++visits[size_t(i)]; });
      ASSERT_EQ(visits, std::vector<int>(size_t(count), 1)) << threads << " threads, " << count;
    }
  }
}

TEST(ThreadPool, LoopsSeeWhatTheLastOneWrote) {
  ThreadPool pool(3);
  std::vector<int64_t> values(64, 0), previous(64, 0);
  constexpr int kLoops = 10000;
  for (int loop = 0; loop < kLoops; ++loop) {
    previous.swap(values);
    pool.for_ranges(64, 1, [&](int64_t first, int64_t last, int) {
      // Reads a neighbour that another thread wrote in the loop before.
      for (int64_t i = first; i < last; ++i) values[size_t(i)] = previous[size_t((i + 17) % 64)] + 1;
    });
  }
  EXPECT_EQ(values, std::vector<int64_t>(64, kLoops));
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(2);
  int sum[2] = {0, 0};
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // far longer than a worker spins
    pool.run([&](int thread) { ++sum[thread]; });
  }
  EXPECT_EQ(sum[0] + sum[1], 10);
}

TEST(ThreadPool, StopsWithoutEverRunning) {
  for (int i = 0; i < 50; ++i) EXPECT_EQ(ThreadPool(4).threads(), 4);
}

}  // namespace
}  // namespace bumblebee
