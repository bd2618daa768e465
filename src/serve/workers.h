// Threads for what a request costs before the engine has it, and after: JSON, templates, tokenizing, whole answers. The
// queue is bounded, so that what cannot be done soon is refused at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bumblebee::serve {

class Workers {
 public:
  /// `threads` of them; at most `waiting` tasks of post() wait.
  Workers(int threads, size_t waiting);
  /// Does what is queued, then ends.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// False where too many wait: nothing was queued. Tasks throw nothing.
  bool post(std::function<void()> task);
  /// For the end of what post() began, of which there are not more than that: always queued, and done before.
  void finish(std::function<void()> task);
  bool full() const;

 private:
  void work();

  const size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> begun_, ending_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace bumblebee::serve
