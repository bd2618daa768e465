// The queue of the log and its thread.
#include "serve/log_queue.h"

namespace bumblebee::serve {

LogQueue::LogQueue(Sink sink) : sink_(std::move(sink)) {
  if (sink_) thread_ = std::thread([this] { write(); });
}

LogQueue::~LogQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void LogQueue::add(std::string line) noexcept {
  if (!sink_) return;
  try {
    const size_t size = line.size();
    const std::lock_guard lock(mutex_);
    if (bytes_ + size > kMostBytes) return drop();
    lines_.push_back(std::move(line));
    bytes_ += size;
  } catch (...) {
    drop();
  }
  wake_.notify_one();
}

bool LogQueue::flush(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return written_.wait_for(lock, most, [this] { return bytes_ == 0; });
}

void LogQueue::write() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
    if (lines_.empty()) return;
    const std::string line = std::move(lines_.front());
    lines_.pop_front();
    lock.unlock();
    try {
      sink_(line);
    } catch (...) {
      drop();
    }
    lock.lock();
    bytes_ -= line.size();
    if (bytes_ == 0) written_.notify_all();
  }
}

}  // namespace bumblebee::serve
