// A listener for tests: keeps what it hears of a request, and checks that it hears it in order.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace bumblebee::engine {

class Answer : public TokenSink {
 public:
  /// `each`: asked at every token, by its index from 1; what it throws ends the request.
  explicit Answer(std::function<StopReason(int index)> each = {}) : each_(std::move(each)) {}

  StopReason take(int32_t token, const text::TokenLogprob* logprob) override {
    {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(over_);
      heard_.push_back(token);
      if (logprob != nullptr) {
        EXPECT_EQ(logprob->token, token);
      }
      changed_.notify_all();
    }
    return each_ ? each_(int(heard_.size())) : StopReason::none;
  }
  void prompt_computed(int computed, int cached) noexcept override {
    const std::lock_guard lock(mutex_);
    computed_ = computed;
    EXPECT_LE(cached, computed);
    changed_.notify_all();
  }
  void ended(GenerationResult result) noexcept override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_);
    EXPECT_EQ(result.tokens, heard_);
    result_ = std::move(result);
    over_ = true;
    changed_.notify_all();
  }
  void failed(std::exception_ptr error) noexcept override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_);
    EXPECT_TRUE(error);
    error_ = std::move(error);
    over_ = true;
    changed_.notify_all();
  }

  /// Blocks until the end; throws the request's error.
  GenerationResult wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return over_; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return result_;
  }
  /// Blocks until so many tokens were heard, or until the end.
  void wait_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_ || heard_.size() >= count; });
  }
  bool over() {
    const std::lock_guard lock(mutex_);
    return over_;
  }

  RequestId id = 0;

 private:
  const std::function<StopReason(int)> each_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> heard_;
  int computed_ = 0;
  bool over_ = false;
  GenerationResult result_;
  std::exception_ptr error_;
};

/// Submits a request whose answer is kept, where it names no listener of its own.
inline std::shared_ptr<Answer> submit(Engine& engine, Request request, std::shared_ptr<Answer> answer = nullptr) {
  if (answer == nullptr) answer = std::make_shared<Answer>();
  request.sink = answer;
  answer->id = engine.submit(std::move(request));
  return answer;
}

}  // namespace bumblebee::engine
