// Locks exclude each other, also in one process, and survive what happens to their files.
#include "hub/lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

class LockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) / ("bb_lock_" + std::to_string(::getpid()));
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  fs::path root_;
};

TEST_F(LockTest, OneAtATime) {
  std::atomic<int> inside{0}, worst{0}, rounds{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        FileLock lock(root_ / "a" / "x.lock", {});
        EXPECT_TRUE(lock.held());
        worst = std::max(worst.load(), ++inside);
        ++rounds;
        std::this_thread::yield();
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(worst, 1);
  EXPECT_EQ(rounds, 80);
  EXPECT_TRUE(fs::exists(root_ / "a" / "x.lock")) << "the file stays: others may wait for it";
}

TEST_F(LockTest, PythonsFilelockIsTheSameLock) {
  // filelock's UnixFileLock: open(O_RDWR | O_TRUNC | O_CREAT), flock(LOCK_EX | LOCK_NB).
  const int other = ::open((root_ / "x.lock").c_str(), O_RDWR | O_TRUNC | O_CREAT, 0644);
  ASSERT_EQ(::flock(other, LOCK_EX | LOCK_NB), 0);
  int asked = 0;
  EXPECT_THROW(FileLock(root_ / "x.lock", [&] { return ++asked > 3; }), Error);
  ::close(other);
  FileLock ours(root_ / "x.lock", {});
  EXPECT_TRUE(ours.held());
  const int late = ::open((root_ / "x.lock").c_str(), O_RDWR);
  EXPECT_NE(::flock(late, LOCK_EX | LOCK_NB), 0);
  ::close(late);
}

TEST_F(LockTest, AFileThatIsRemovedMeanwhile) {
  auto first = std::make_unique<FileLock>(root_ / "x.lock", std::function<bool()>{});
  std::atomic<bool> got{false};
  std::thread waiter([&] {
    FileLock lock(root_ / "x.lock", {});
    got = lock.held() && fs::exists(root_ / "x.lock");
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  fs::remove(root_ / "x.lock");
  first.reset();
  waiter.join();
  EXPECT_TRUE(got) << "a lock on a file that nobody else sees is none";
}

TEST_F(LockTest, PlacesWhereNoLockCanBe) {
  std::ofstream(root_ / "file") << "x";
  EXPECT_THROW(FileLock(root_ / "file" / "x.lock", {}), Error);
  fs::create_symlink(root_ / "file", root_ / "link.lock");
  EXPECT_THROW(FileLock(root_ / "link.lock", {}), Error) << "links are not followed";
}

}  // namespace
}  // namespace bumblebee::hub
