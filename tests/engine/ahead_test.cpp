// Two steps in flight: a device that computes by itself is given a step before the host has read the one before it.
#include <atomic>
#include <thread>

#include "tests/engine/loop_test.h"

namespace bumblebee::engine {
namespace {

/// Counts the rows whose tokens nobody knew when they were launched, and does what a test says before each step.
class Device : public HookedExecutor {
 public:
  struct Seen {
    std::atomic<int> steps{0}, unknown{0}, waits{0};
    std::atomic<int> fail_launch{0}, fail_wait{0};  // the next so many of steps with unknown tokens, and of waits
    std::atomic<ErrorCode> code{ErrorCode::out_of_memory};
  };
  explicit Device(Seen& seen, int pages = 400, Hook hook = {})
      : HookedExecutor(pages, std::move(hook), true), seen_(seen) {}

  exec::Ticket launch(const exec::Step& step) override {
    EXPECT_LE(launched_ - waited_, 1u) << "a third step in flight";
    const auto unknown =
        std::count_if(step.batch.tokens.begin(), step.batch.tokens.end(), [](int32_t t) { return t < 0; });
    if (unknown > 0 && seen_.fail_launch > 0) {
      --seen_.fail_launch;
      throw Error(ErrorCode::out_of_memory, "test", "no memory for this step");
    }
    ++seen_.steps;
    seen_.unknown += int(unknown);
    return launched_ = HookedExecutor::launch(step);
  }
  const exec::StepResult& wait(exec::Ticket ticket) override {
    waited_ = std::max(waited_, ticket);
    if (++seen_.waits > 3 && seen_.fail_wait > 0) {
      --seen_.fail_wait;
      throw Error(seen_.code, "test", "this step failed");
    }
    return HookedExecutor::wait(ticket);
  }

 private:
  Seen& seen_;
  exec::Ticket launched_ = 0, waited_ = 0;
};

TEST(Ahead, AnswersAreThoseOfOneStepAtATime) {
  Device::Seen seen;
  Engine engine(std::make_unique<Device>(seen), options(4));
  std::vector<Request> requests;
  for (int i = 0; i < 12; ++i) requests.push_back(work(3 + 40 * (i % 3), 1 + 17 * i, 1 + i));
  std::vector<std::shared_ptr<Answer>> answers;
  for (const Request& request : requests) answers.push_back(submit(engine, request));
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(requests[i])) << i;
  EXPECT_GT(seen.unknown, 500);
}

/// A row too many of what a token ended: nobody hears of it, and its pages are the next one's.
TEST(Ahead, AnAnswerMayEndWhileItsNextRowIsOnItsWay) {
  Device::Seen seen;
  Engine engine(std::make_unique<Device>(seen, 40), options(2));
  for (int i = 0; i < 40; ++i) {
    Request request = work(100, 60, 1 + i);
    std::vector<int32_t> want = continuation(request);
    const size_t length = size_t(i) % 50;
    request.config.eos_token_ids = {want[length]};
    want.erase(std::find(want.begin(), want.end(), want[length]), want.end());
    const GenerationResult result = submit(engine, request)->wait();
    EXPECT_EQ(result.tokens, want);
    EXPECT_EQ(result.reason, text::FinishReason::stop);
    // What it left in the cache is right: the next one goes on behind its answer.
    Request next = work(100, 5, 1 + i);
    next.prompt.insert(next.prompt.end(), want.begin(), want.end());
    next.prompt.push_back(7);
    EXPECT_EQ(submit(engine, next)->wait().tokens, continuation(next));
  }
  EXPECT_EQ(engine.stats().running, 0);
  EXPECT_GT(seen.unknown, 500);
}

TEST(Ahead, ACancelledRequestLeavesTheOthersAsTheyAre) {
  Device::Seen seen;
  Engine* to_cancel = nullptr;
  std::atomic<RequestId> victim{0};
  Engine engine(std::make_unique<Device>(seen, 400,
                                         [&](int step, const exec::Step&) {
                                           if (step == 30 && victim != 0) to_cancel->cancel(victim);
                                         }),
                options(3));
  to_cancel = &engine;
  const Request first = work(90, 100, 3), second = work(20, 100, 50);
  victim = 1;  // the first request's number
  const auto cancelled = submit(engine, first), other = submit(engine, second);
  const std::vector<int32_t> want = continuation(first), made = cancelled->wait().tokens;
  ASSERT_LT(made.size(), want.size());
  EXPECT_TRUE(std::equal(made.begin(), made.end(), want.begin()));
  EXPECT_EQ(other->wait().tokens, continuation(second));
}

/// How a token is chosen depends on the one before it: no step is launched before that is known.
TEST(Ahead, WhatDependsOnTheTokenBeforeWaitsForIt) {
  const auto rows_of_unknown_tokens = [](const auto& change) {
    Device::Seen seen;
    Engine engine(std::make_unique<Device>(seen), options(2));
    Request request = work(10, 40);
    change(request.config);
    EXPECT_EQ(submit(engine, request)->wait().tokens.size(), 40u);
    return int(seen.unknown);
  };
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig&) {}), 39);
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig& c) { c.min_new_tokens = 5; }), 39);
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig& c) { c.repetition_penalty = 1.1; }), 0);
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig& c) { c.presence_penalty = 0.5; }), 0);
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig& c) { c.frequency_penalty = 0.5; }), 0);
  EXPECT_EQ(rows_of_unknown_tokens([](GenerationConfig& c) { c.no_repeat_ngram_length = 3; }), 0);
}

TEST(Ahead, AStepThatCannotBeLaunchedEarlyIsLaunchedLater) {
  Device::Seen seen;
  seen.fail_launch = 5;
  Engine engine(std::make_unique<Device>(seen), options(2));
  const Request a = work(70, 80, 3), b = work(20, 80, 50);
  const auto first = submit(engine, a), second = submit(engine, b);
  EXPECT_EQ(first->wait().tokens, continuation(a));
  EXPECT_EQ(second->wait().tokens, continuation(b));
  EXPECT_EQ(seen.fail_launch, 0);
  EXPECT_EQ(engine.stats().failed, 0);
  EXPECT_GT(seen.unknown, 50);
}

/// Memory that is short when a step is waited for: it and the one after it are planned anew.
TEST(Ahead, AStepThatFailsTakesTheOneAfterItAlong) {
  Device::Seen seen;
  seen.fail_wait = 1;
  Engine engine(std::make_unique<Device>(seen), options(2));
  const Request a = work(70, 80, 3), b = work(20, 80, 50);
  const auto first = submit(engine, a), second = submit(engine, b);
  EXPECT_EQ(first->wait().tokens, continuation(a));
  EXPECT_EQ(second->wait().tokens, continuation(b));
  EXPECT_EQ(seen.fail_wait, 0);

  seen.code = ErrorCode::device;
  seen.fail_wait = 1;
  EXPECT_EQ(code_of(*submit(engine, a)), ErrorCode::device);
  EXPECT_EQ(submit(engine, a)->wait().tokens, continuation(a)) << "and nothing of it is left";
}

/// Pages for both, but not at once: one gives way, which no step in flight may hold up or spoil.
TEST(Ahead, PagesThatRunShort) {
  Device::Seen seen;
  Engine engine(std::make_unique<Device>(seen, 12), [] {
    EngineOptions few = options(3);
    few.sequence_length = 700;
    return few;
  }());
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) requests.push_back(work(30 + i, 500, 1 + 100 * i));
  std::vector<std::shared_ptr<Answer>> answers;
  for (const Request& request : requests) answers.push_back(submit(engine, request));
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(requests[i])) << i;
  EXPECT_GT(engine.stats().preemptions, 0);
  EXPECT_GT(seen.unknown, 500);
}

}  // namespace
}  // namespace bumblebee::engine
