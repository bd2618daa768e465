// The threads and their two queues.
#include "serve/workers.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bumblebee::serve {

Workers::Workers(int threads, size_t waiting, uint64_t bytes) : most_(waiting), most_bytes_(bytes) {
  threads_.reserve(size_t(threads));
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {  // those that are there must be joined
    end();
    throw;
  }
}

Workers::~Workers() { end(); }

void Workers::end() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::allow(size_t waiting) {
  const std::lock_guard lock(mutex_);
  most_ = waiting;
}

bool Workers::post(std::function<void()> task, uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (full_locked() || bytes > most_bytes_ - bytes_) return false;
    begun_.push_back({std::move(task), bytes});
    bytes_ += bytes;
  }
  wake_.notify_one();
  return true;
}

void Workers::finish(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    ending_.push_back({std::move(task), 0});
  }
  wake_.notify_one();
}

bool Workers::full() const {
  const std::lock_guard lock(mutex_);
  return full_locked();
}

void Workers::work() {
  // Answers that are being made come before requests that are not: of this thread alone, which Linux can.
  ::setpriority(PRIO_PROCESS, id_t(::syscall(SYS_gettid)), 5);
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !begun_.empty() || !ending_.empty(); });
    std::deque<Task>& queue = ending_.empty() ? begun_ : ending_;
    if (queue.empty()) return;
    Task task = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    task.run();
    task.run = nullptr;  // what it holds goes without the lock
    lock.lock();
    bytes_ -= task.bytes;
  }
}

}  // namespace bumblebee::serve
