// One request on its way through the engine: what to compute, who listens, and where the answer is left.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "bumblebee/text.h"
#include "lora/bank.h"

namespace bumblebee::engine {

/// Hears every new token on the engine's thread. Exceptions end this request only.
class TokenSink {
 public:
  enum class Verdict : uint8_t { go_on, stop, cancel };
  virtual ~TokenSink() = default;
  virtual Verdict take(int32_t token) = 0;
};

struct Work {
  std::vector<int32_t> prompt;
  GenerationConfig config;  // validated
  uint64_t seed = 0;
  std::shared_ptr<const lora::AdapterSet> adapters;  // null: the base
  TokenSink* sink = nullptr;                         // outlives the job; may be null
  std::function<bool()> cancelled;
};

struct Outcome {
  std::vector<int32_t> tokens;  // without the ending token
  std::vector<text::TokenLogprob> logprobs;
  text::FinishReason reason = text::FinishReason::stop;
  text::Timings timings;
};

/// Left by the engine's thread, awaited by the caller's.
class Job {
 public:
  explicit Job(Work w) : adapters(std::move(w.adapters)), work(std::move(w)) {}
  /// Until the request is admitted, which gives them a slot; the engine's thread drops them then. A job may outlive its
  /// answer by a moment, and its adapters' memory must not.
  std::shared_ptr<const lora::AdapterSet> adapters;
  const Work work;  // without the adapters
  const std::chrono::steady_clock::time_point called = std::chrono::steady_clock::now();

  /// Blocks until the answer is there; throws the request's error.
  Outcome wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return finished_; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::move(outcome_);
  }
  void succeed(Outcome outcome) {
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(outcome);
    finished_ = true;
    done_.notify_all();
  }
  void fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    finished_ = true;
    done_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  Outcome outcome_;
  std::exception_ptr error_;
};

}  // namespace bumblebee::engine
