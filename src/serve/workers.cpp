// The threads and their two queues.
#include "serve/workers.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bumblebee::serve {

Workers::Workers(int threads, size_t waiting) : most_(waiting) {
  threads_.reserve(size_t(threads));
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Workers::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (begun_.size() >= most_) return false;
    begun_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void Workers::finish(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    ending_.push_back(std::move(task));
  }
  wake_.notify_one();
}

bool Workers::full() const {
  const std::lock_guard lock(mutex_);
  return begun_.size() >= most_;
}

void Workers::work() {
  // Answers that are being made come before requests that are not: of this thread alone, which Linux can.
  ::setpriority(PRIO_PROCESS, id_t(::syscall(SYS_gettid)), 5);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !begun_.empty() || !ending_.empty(); });
    std::deque<std::function<void()>>& queue = ending_.empty() ? begun_ : ending_;
    if (queue.empty()) return;
    std::function<void()> task = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes without the lock
    lock.lock();
  }
}

}  // namespace bumblebee::serve
