// Every index is visited exactly once for every partition, results of one loop are seen by the next, and a pool
// survives many loops. The same tests run under ThreadSanitizer in the tsan preset.
#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <map>
#include <string>
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
  std::thread::id zero;
  pool.run([&](int thread) {
    if (thread == 0) zero = std::this_thread::get_id();
  });
  EXPECT_EQ(zero, caller);
}

TEST(ThreadPool, WorkersTakePartsWhileTheCallerIsBusy) {
  ThreadPool pool(3);
  std::atomic<int> begun{0};
  std::vector<std::thread::id> ran(3);
  // No part ends before all have begun: each must be on a thread of its own.
  pool.run([&](int thread) {
    ran[size_t(thread)] = std::this_thread::get_id();
    ++begun;
    while (begun < 3) std::this_thread::yield();
  });
  EXPECT_NE(ran[0], ran[1]);
  EXPECT_NE(ran[1], ran[2]);
  EXPECT_NE(ran[0], ran[2]);
}

/// Processor time of this process.
double cpu_seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

TEST(ThreadPool, IdleThreadsUseNoProcessor) {
  ThreadPool pool(4);
  pool.run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  // Three spinning threads would use at least 0.2 s of the processors that are free.
  EXPECT_LT(cpu_seconds() - before, 0.08);
}

TEST(ThreadPool, MoreThreadsThanProcessorsStillRunEverything) {
  const int threads = 2 * int(allowed_cpus().size()) + 1;
  ThreadPool pool(threads);
  EXPECT_TRUE(pool.plan().crowded);
  std::vector<int64_t> visits(size_t(threads), 0);
  for (int loop = 0; loop < 2000; ++loop) pool.run([&](int thread) { ++visits[size_t(thread)]; });
  EXPECT_EQ(visits, std::vector<int64_t>(size_t(threads), 2000));
}

/// Processors that every thread of this process may use. Threads that were joined may still be listed for a moment.
std::map<pid_t, int> cpus_of_threads() {
  std::map<pid_t, int> counts;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    const pid_t id = pid_t(std::stol(entry.path().filename().string()));
    cpu_set_t set;
    if (::sched_getaffinity(id, sizeof set, &set) == 0) counts[id] = CPU_COUNT(&set);
  }
  return counts;
}

/// Of the threads that were not there before.
std::vector<int> cpus_of_new(const std::map<pid_t, int>& before) {
  std::vector<int> counts;
  for (const auto& [id, count] : cpus_of_threads()) {
    if (!before.contains(id)) counts.push_back(count);
  }
  return counts;
}

TEST(ThreadPool, BindsWorkersWhenAskedAndNeverTheCaller) {
  const std::vector<int> allowed = allowed_cpus();
  if (allowed.size() < 2 || allowed.size() > CPU_SETSIZE) GTEST_SKIP() << "needs two processors";
  {
    const auto before = cpus_of_threads();
    ThreadPool pool(2, Pin::cores);
    EXPECT_EQ(pool.refused_bindings(), 0);
    EXPECT_EQ(pool.plan().bound[1].size(), 1u);
    for (int i = 0; i < 100; ++i) pool.run([](int) {});
    EXPECT_EQ(cpus_of_new(before), std::vector<int>{1});
    EXPECT_EQ(allowed_cpus(), allowed);
  }
  {
    const auto before = cpus_of_threads();
    ThreadPool pool(2, Pin::none);
    for (int i = 0; i < 100; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      pool.run([](int) {});
    }
    EXPECT_EQ(cpus_of_new(before), std::vector<int>{int(allowed.size())}) << "moving a thread leaves its affinity";
  }
  EXPECT_EQ(allowed_cpus(), allowed);
}

TEST(ThreadPool, ABindingThatCannotBeIsReportedAndTheWorkIsDone) {
  ThreadPlan plan = plan_threads(this_machine(), 2);
  plan.bound[1] = {16000};  // no such processor
  ThreadPool pool(plan);
  EXPECT_EQ(pool.refused_bindings(), 1);
  std::atomic<int> visits{0};
  pool.run([&](int) { ++visits; });
  EXPECT_EQ(visits, 2);
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

TEST(ThreadPool, EveryPieceOfEveryPartIsTakenOnce) {
  for (const int threads : kThreads) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      for (const int pieces : {1, 2, 5, ThreadPool::kMostPieces}) {
        std::vector<std::atomic<int>> taken = std::vector<std::atomic<int>>(size_t(threads) * size_t(pieces));
        std::vector<std::atomic<int>> inside = std::vector<std::atomic<int>>(size_t(threads));
        pool.run_pieces(pieces, [&](int part, int piece, int thread) {
          EXPECT_EQ(inside[size_t(thread)]++, 0) << "two pieces with the memory of one thread";
          ++taken[size_t(part * pieces + piece)];
          --inside[size_t(thread)];
        });
        for (const std::atomic<int>& one : taken)
          ASSERT_EQ(one.load(), 1) << threads << " threads, " << pieces << " pieces";
      }
    }
  }
}

TEST(ThreadPool, OthersTakeThePiecesOfAThreadThatIsHeldUp) {
  constexpr int kPieces = 8;
  ThreadPool pool(3);
  for (int held = 0; held < 3; ++held) {
    std::atomic<int> done{0};
    std::atomic<int> mine{0};
    // The first piece of one part ends after all other pieces of everybody: whoever has it takes no second one.
    pool.run_pieces(kPieces, [&](int part, int piece, int) {
      if (part == held && piece == 0) {
        while (done < 3 * kPieces - 1) std::this_thread::yield();
        mine = done.load();
      }
      ++done;
    });
    EXPECT_EQ(mine.load(), 3 * kPieces - 1);
    EXPECT_EQ(done.load(), 3 * kPieces);
  }
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
