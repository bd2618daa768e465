// Threads for what a request costs before the engine has it, and after: JSON, templates, tokenizing, whole answers. The
// queue is bounded, so that what cannot be done soon is refused at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bumblebee::serve {

class Workers {
 public:
  /// `threads` of them; at most `waiting` tasks of post() wait, and what they and those that run hold is at most
  /// `bytes`. Throws std::system_error where a thread cannot be had.
  Workers(int threads, size_t waiting, uint64_t bytes);
  /// Does what is queued, then ends.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// So many tasks may wait from now on.
  void allow(size_t waiting);
  /// `bytes`: what the task holds until it is done. False where too much waits: nothing was queued. Tasks throw
  /// nothing.
  bool post(std::function<void()> task, uint64_t bytes = 0);
  /// For the end of what post() began, of which there are not more than that: always queued, and done before.
  void finish(std::function<void()> task);
  bool full() const;

 private:
  struct Task {
    std::function<void()> run;
    uint64_t bytes = 0;
  };
  void work();
  void end() noexcept;
  bool full_locked() const { return begun_.size() >= most_ || bytes_ >= most_bytes_; }

  size_t most_;
  const uint64_t most_bytes_;
  uint64_t bytes_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> begun_, ending_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace bumblebee::serve
