// A listener for tests: keeps what it hears, and checks that it hears it in order and one call at a time.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bumblebee/serving.h"

namespace bumblebee::text {

class Recorder final : public Listener {
 public:
  struct Answer {
    std::string text;
    std::vector<int32_t> tokens;
    std::vector<TokenLogprob> logprobs;
    int input = 0, cached = 0, deltas = 0;
    std::optional<FinishReason> finish_reason;
  };
  std::function<void(const Delta&)> hook;  // on the serving's thread, after the delta was kept

  void on_delta(const Delta& delta) noexcept override {
    EXPECT_EQ(inside_.fetch_add(1), 0) << "one call at a time";
    {
      const std::lock_guard lock(mutex_);
      Answer& answer = answers_[delta.index];
      EXPECT_FALSE(answer.finish_reason) << "nothing after the last delta";
      EXPECT_EQ(ends_, 0) << "nothing after the end";
      EXPECT_FALSE(delta.finish_reason && !delta.tokens.empty());
      answer.text += delta.text;
      answer.tokens.insert(answer.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      answer.logprobs.insert(answer.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      answer.input = delta.input;
      answer.cached = delta.cached;
      answer.finish_reason = delta.finish_reason;
      ++answer.deltas;
      changed_.notify_all();
    }
    if (hook) hook(delta);
    --inside_;
  }
  void on_end(std::vector<Result> results) noexcept override {
    end([&] { results_ = std::move(results); });
  }
  void on_error(const Error& error) noexcept override {
    end([&] { error_ = error.code(); });
  }

  Answer answer(int index = 0) {
    const std::lock_guard lock(mutex_);
    return answers_.at(index);
  }
  size_t answers() {
    const std::lock_guard lock(mutex_);
    return answers_.size();
  }
  std::vector<Result> results() {
    const std::lock_guard lock(mutex_);
    return results_;
  }
  std::optional<ErrorCode> error() {
    const std::lock_guard lock(mutex_);
    return error_;
  }
  int ends() {
    const std::lock_guard lock(mutex_);
    return ends_;
  }
  /// Blocks until so many tokens of any answer were heard, or until the end.
  void wait_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      size_t heard = 0;
      for (const auto& [index, answer] : answers_) heard += answer.tokens.size();
      return ends_ > 0 || heard >= count;
    });
  }

 private:
  template <class Set>
  void end(const Set& set) {
    EXPECT_EQ(inside_.fetch_add(1), 0) << "one call at a time";
    {
      const std::lock_guard lock(mutex_);
      set();
      EXPECT_EQ(++ends_, 1) << "one end";
      changed_.notify_all();
    }
    --inside_;
  }

  std::atomic<int> inside_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, Answer> answers_;
  std::vector<Result> results_;
  std::optional<ErrorCode> error_;
  int ends_ = 0;
};

}  // namespace bumblebee::text
