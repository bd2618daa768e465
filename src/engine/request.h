// One request on its way through the engine: what to compute, who listens, and where the answer is left.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bumblebee/generation.h"
#include "lora/adapter_cache.h"

namespace bumblebee::engine {

/// Hears every new token on the engine's thread. What it throws ends this request only. It may not block: what a user
/// hears is handed over on the user's own thread.
class TokenSink {
 public:
  enum class StopReason : uint8_t { none, stop, length, cancelled };
  virtual ~TokenSink() = default;
  virtual StopReason take(int32_t token) = 0;
  /// Whether the next token may not be one that ends the answer.
  virtual bool must_go_on() { return false; }
  /// So many tokens of the prompt are computed.
  virtual void prompt_computed(int) noexcept {}
  /// No more tokens come.
  virtual void ended() noexcept {}
};

struct Request {
  std::vector<int32_t> prompt;
  GenerationConfig config;  // validated
  uint64_t seed = 0;
  std::shared_ptr<const lora::AdapterSet> adapters;  // null: the base
  /// Who goes on with what an earlier request left computed (kept_sequences.h); null: nobody. Only who it is counts.
  std::shared_ptr<const void> session;
  TokenSink* sink = nullptr;        // outlives the job; may be null
  std::function<bool()> cancelled;  // the library's own: looked at between steps
};

struct GenerationResult {
  int reused = 0;               // tokens of the prompt that an earlier request had computed
  std::vector<int32_t> tokens;  // without the ending token
  std::vector<text::TokenLogprob> logprobs;
  text::FinishReason reason = text::FinishReason::stop;
  text::Timings timings;
};

/// A request that was submitted: left by the engine's thread, awaited by the caller's.
class Job {
 public:
  explicit Job(Request r)
      : out_of_memory(std::make_exception_ptr(
            Error(ErrorCode::out_of_memory, "engine", "not enough memory to go on with this request"))),
        request(std::move(r)) {}

  /// Ready-made: to be told of a shortage must not need memory.
  const std::exception_ptr out_of_memory;
  /// The prompt and the adapters move on to the scheduler's sequence: a job may outlive its answer by a moment, and
  /// their memory must not.
  Request request;
  const std::chrono::steady_clock::time_point called = std::chrono::steady_clock::now();

  /// Blocks until the answer is there; throws the request's error.
  GenerationResult wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return finished_; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::move(result_);
  }
  void succeed(GenerationResult result) noexcept {
    finish([&] { result_ = std::move(result); });
  }
  void fail(std::exception_ptr error) noexcept {
    finish([&] { error_ = std::move(error); });
  }

 private:
  template <class Set>
  void finish(const Set& set) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (request.sink != nullptr) request.sink->ended();
      set();
      finished_ = true;
      done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  GenerationResult result_;
  std::exception_ptr error_;
};

}  // namespace bumblebee::engine
