// A fixed pool that runs one parallel loop at a time with a static partition. Workers spin briefly and then sleep, so
// that a host program is not starved between steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace bumblebee {

/// A non-owning reference to a callable, for calls that end before the callable does.
template <class>
class FunctionRef;
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
  FunctionRef(F&& f)  // NOLINT: implicit by design, as std::function is
      : object_(const_cast<void*>(static_cast<const void*>(&f))), call_([](void* o, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(o))(static_cast<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, static_cast<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

class ThreadPool {
 public:
  /// `threads` counts the caller too: 1 means no worker. 0 means one per core this process may run on.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Runs body(thread) once on each of the pool's threads, the caller being thread 0, and returns when all have
  /// finished. `body` must not throw. Not reentrant; one caller at a time.
  void run(FunctionRef<void(int thread)> body);

  /// Splits [0, count) into one contiguous range per thread, each a multiple of `grain` long (but the last), and calls
  /// body(first, last, thread) for those that are not empty.
  void for_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t first, int64_t last, int thread)> body);

  /// Hands out indices 0..count-1 one at a time, for uneven work.
  void for_each(int64_t count, FunctionRef<void(int64_t index, int thread)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Cores this process may run on (its affinity mask), at least 1.
int available_cores();

}  // namespace bumblebee
