// Two threads pass blocks to and fro: filled ones to the one that hashes, empty ones back.
#include "hub/background_digest.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace bumblebee::hub {
namespace {

constexpr uint64_t kLarge = uint64_t{16} << 20;
constexpr size_t kBlock = size_t{1} << 20;
constexpr int kBlocks = 4;

}  // namespace

struct BackgroundDigest::Worker {
  using Block = std::vector<std::byte>;

  Worker(const std::string& expected, uint64_t size) : digest(expected, size) {
    for (int i = 0; i < kBlocks; ++i) free.emplace_back().reserve(kBlock);
    thread = std::thread([this] { work(); });
  }
  ~Worker() { end(Ending::at_once); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Block take() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !free.empty(); });
    Block block = std::move(free.back());
    free.pop_back();
    return block;
  }
  void give(Block block) {
    const std::lock_guard lock(mutex);
    filled.push_back(std::move(block));
    changed.notify_all();
  }
  void update(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (current.capacity() == 0) current = take();
      const size_t n = std::min(bytes.size(), kBlock - current.size());
      current.insert(current.end(), bytes.begin(), bytes.begin() + std::ptrdiff_t(n));
      bytes = bytes.subspan(n);
      if (current.size() == kBlock) give(std::exchange(current, {}));
    }
  }
  enum class Ending : unsigned char { when_done, at_once };
  void end(Ending ending) {
    if (!thread.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      closed = true;
      if (ending == Ending::at_once) filled.clear();
      changed.notify_all();
    }
    thread.join();
  }
  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return closed || !filled.empty(); });
      if (filled.empty()) return;
      Block block = std::move(filled.front());
      filled.pop_front();
      lock.unlock();
      digest.update(block);
      block.clear();
      lock.lock();
      free.push_back(std::move(block));
      changed.notify_all();
    }
  }

  Digest digest;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Block> filled;
  std::vector<Block> free;
  bool closed = false;
  Block current;
  std::thread thread;
};

BackgroundDigest::BackgroundDigest(const std::string& expected, uint64_t size) {
  try {
    if (size >= kLarge) worker_ = std::make_unique<Worker>(expected, size);
  } catch (const std::system_error&) {  // no more threads
  }
  if (!worker_) direct_.emplace(expected, size);
}

BackgroundDigest::~BackgroundDigest() = default;

void BackgroundDigest::update(std::span<const std::byte> bytes) {
  if (direct_) return direct_->update(bytes);
  worker_->update(bytes);
}

std::string BackgroundDigest::finish() {
  if (direct_) return direct_->finish();
  if (!worker_->current.empty()) worker_->give(std::exchange(worker_->current, {}));
  worker_->end(Worker::Ending::when_done);
  return worker_->digest.finish();
}

}  // namespace bumblebee::hub
