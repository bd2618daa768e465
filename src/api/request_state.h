// A submitted request while it is on its way: what its answers came to, who listens, and how it is ended.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "bumblebee/serving.h"
#include "engine/engine.h"

namespace bumblebee::text::detail {

/// The listener hears of all answers under one lock, which cancel() and the engine never take.
class RequestState {
 public:
  /// `listener` may be null. `engine` is not kept alive: when it ends, so does the request.
  RequestState(int answers, std::shared_ptr<Listener> listener, std::weak_ptr<engine::Engine> engine);
  RequestState(const RequestState&) = delete;
  RequestState& operator=(const RequestState&) = delete;

  // The sinks, on the serving's threads.
  void tell(const Delta& delta) noexcept;
  /// With `rest`, the text of the last delta of this answer. The last one to end ends the request.
  void end(int index, Result result, std::string_view rest, std::span<const size_t> marks, int cached) noexcept;
  /// Ends the request: its other answers are cancelled, and nobody hears of them.
  void fail(std::exception_ptr error) noexcept;
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  void prompt_computed(int tokens) { computed_.store(tokens, std::memory_order_relaxed); }

  // The handles and run().
  void submitted(std::vector<engine::RequestId> ids) noexcept;
  uint64_t id() const { return id_; }
  void cancel() noexcept;
  std::vector<Result> wait();
  int computed() const { return computed_.load(std::memory_order_relaxed); }

 private:
  /// Calls `tell` with the listener and lets go of it, then those that wait hear. Under the lock.
  template <class Tell>
  void finish(const Tell& tell) noexcept;

  const std::weak_ptr<engine::Engine> engine_;
  const Error out_of_memory_;  // ready-made: to be told of a shortage must not need memory
  std::atomic<bool> cancelled_{false};
  std::atomic<int> computed_{0};
  uint64_t id_ = 0;

  std::mutex ids_mutex_;
  std::vector<engine::RequestId> ids_;

  std::mutex mutex_;  // what follows
  std::condition_variable over_changed_;
  std::shared_ptr<Listener> listener_;
  std::vector<std::optional<Result>> answers_;
  int left_;
  bool over_ = false;
  std::vector<Result> results_;
  std::optional<Error> told_;
  const Error* error_ = nullptr;  // `told_` or `out_of_memory_`, where it failed
};

}  // namespace bumblebee::text::detail
