// The loop without a model: who comes, leaves, is late or is refused, and what is done when the device has no memory.
#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "tests/engine/loop_test.h"

namespace bumblebee::engine {
namespace {

using namespace std::chrono_literals;

TEST(Loop, PagesOfACancelledRequestAreFreeBeforeTheNextStep) {
  Engine* engine = nullptr;
  std::atomic<RequestId> victim{0};
  std::atomic<int> checked{0};
  const auto hook = [&](int step, const exec::Step&) {
    if (victim != 0 && step == 5) engine->cancel(victim);
    if (step == 6) {
      const text::ServingStats stats = engine->stats();
      EXPECT_EQ(stats.running, 1);
      EXPECT_EQ(stats.pages_used, 1);
      ++checked;
    }
  };
  Engine made(std::make_unique<HookedExecutor>(100, hook), [] {
    EngineOptions two = options(2);
    two.batch_timeout_ms = 100'000;
    two.prefix_cache = false;
    return two;
  }());
  engine = &made;
  std::vector<Request> both;
  both.push_back(work(300, 100));
  both.push_back(work(5, 20));
  std::vector<std::shared_ptr<Answer>> answers = {std::make_shared<Answer>(), std::make_shared<Answer>()};
  victim = 1;
  for (size_t i = 0; i < 2; ++i) both[i].sink = answers[i];
  EXPECT_EQ(made.submit(std::move(both)), (std::vector<RequestId>{1, 2}));
  const GenerationResult cancelled = answers[0]->wait();
  EXPECT_EQ(cancelled.reason, text::FinishReason::cancelled);
  EXPECT_EQ(answers[1]->wait().tokens.size(), 20u);
  EXPECT_EQ(checked, 1);
}

TEST(Loop, AWaitingRequestLeavesAtOnce) {
  std::promise<void> go_on;
  const auto gate = go_on.get_future().share();
  Engine engine(std::make_unique<HookedExecutor>(100,
                                                 [&](int step, const exec::Step&) {
                                                   if (step == 2) gate.wait();
                                                 }),
                options(1));
  const auto running = submit(engine, work(5, 9));
  const auto waiting = submit(engine, work(5, 9));
  engine.cancel(waiting->id);
  go_on.set_value();
  EXPECT_TRUE(waiting->wait().tokens.empty());
  EXPECT_EQ(running->wait().tokens.size(), 9u);
  engine.cancel(running->id);  // long gone
  engine.cancel(12345);
}

TEST(Loop, AFullQueueRefusesAndADrainedEngineToo) {
  std::promise<void> go_on;
  const auto gate = go_on.get_future().share();
  EngineOptions few = options(1);
  few.max_waiting = 2;
  few.max_waiting_tokens = 20;
  Engine engine(std::make_unique<HookedExecutor>(100, [&](int, const exec::Step&) { gate.wait(); }), few);
  const auto first = submit(engine, work(5, 3));
  while (engine.stats().running == 0) std::this_thread::yield();
  const auto second = submit(engine, work(15, 3));
  EXPECT_TRUE(engine.full(6)) << "by tokens, and counts nothing";
  EXPECT_FALSE(engine.full(5));
  EXPECT_EQ(code_of([&] { submit(engine, work(6, 3)); }), ErrorCode::busy) << "by tokens";
  const auto third = submit(engine, work(5, 3));
  EXPECT_EQ(code_of([&] { submit(engine, work(0, 3)); }), ErrorCode::busy) << "full, before anything is looked at";
  EXPECT_EQ(code_of([&] { engine.require_room(1); }), ErrorCode::busy);
  EXPECT_EQ(code_of([&] { engine.require_room(4); }), ErrorCode::bad_request) << "never";
  EXPECT_EQ(engine.stats().refused, 3u) << "each once, and what is wrong not at all";
  EXPECT_TRUE(engine.full(0));
  EXPECT_EQ(engine.stats().waiting, 2);
  EXPECT_EQ(engine.stats().waiting_tokens, 20);
  auto drained = std::async(std::launch::async, [&] { return engine.drain(1h); });
  while (true) {
    try {
      engine.require_room(0);
      std::this_thread::yield();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::draining) break;
    }
  }
  EXPECT_EQ(code_of([&] { submit(engine, work(1, 1)); }), ErrorCode::draining);
  go_on.set_value();
  EXPECT_TRUE(drained.get());
  EXPECT_TRUE(first->over() && second->over() && third->over());
  EXPECT_EQ(first->wait().tokens.size(), 3u);
}

TEST(Loop, ADrainThatIsOverCancelsTheRest) {
  Engine engine(std::make_unique<ScriptedExecutor>(100, kVocab), options(1));
  const auto answer = submit(engine, work(5, 1900));
  answer->wait_tokens(1);
  EXPECT_FALSE(engine.drain(0ms));
  EXPECT_TRUE(answer->over());
  EXPECT_EQ(answer->wait().reason, text::FinishReason::cancelled);
}

TEST(Loop, ADrainEndsAsSoonAsItCanHoweverLongItMayTake) {
  EngineOptions patient = options(2);
  patient.batch_timeout_ms = 3'600'000;
  Engine engine(std::make_unique<ScriptedExecutor>(100, kVocab), patient);
  const auto answer = submit(engine, work(5, 3));
  std::this_thread::sleep_for(20ms);  // so that it waits for company
  EXPECT_TRUE(engine.drain(std::chrono::milliseconds::max()));
  EXPECT_EQ(answer->wait().tokens.size(), 3u);
}

TEST(Loop, ACallFollowsTheEndOfTheServingToo) {
  const auto answer = std::make_shared<Answer>();
  std::atomic<bool> heard{false};
  EngineOptions told = options(1);
  told.on_step = [&] { heard = answer->over(); };
  {
    Engine engine(std::make_unique<ScriptedExecutor>(100, kVocab), told);
    submit(engine, work(5, 1900), answer);
    answer->wait_tokens(1);
  }
  EXPECT_TRUE(heard);
}

TEST(Loop, ContrastiveSearchAmongOneIsGreedyAndGivesWay) {
  EngineOptions four = options(4);
  four.batch_timeout_ms = 100'000;
  Engine engine(std::make_unique<ScriptedExecutor>(24, kVocab), four);
  std::vector<Request> works;
  std::vector<std::shared_ptr<Answer>> answers;
  for (int i = 0; i < 4; ++i) {
    works.push_back(work(40, 600, 100 * i));
    works.back().config.strategy = ContrastiveSearch{.top_k = 1, .alpha = 0.6};
    answers.push_back(std::make_shared<Answer>());
    works.back().sink = answers.back();
  }
  engine.submit(works);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << i;
  EXPECT_GT(engine.stats().preemptions, 0u);
}

TEST(Loop, LateRequestsAreTold) {
  std::promise<void> go_on;
  const auto gate = go_on.get_future().share();
  Engine engine(std::make_unique<HookedExecutor>(100,
                                                 [&](int step, const exec::Step&) {
                                                   if (step == 2) gate.wait();
                                                 }),
                options(1));
  Request running = work(5, 1900);
  running.deadline = std::chrono::steady_clock::now() + 1ms;
  const auto late = submit(engine, running);
  Request waiting = work(5, 3);
  waiting.queue_deadline = std::chrono::steady_clock::now();
  const auto queued = submit(engine, waiting);
  waiting.queue_deadline = std::chrono::steady_clock::now() + 1h;
  const auto patient = submit(engine, waiting);
  std::this_thread::sleep_for(5ms);
  go_on.set_value();
  EXPECT_EQ(code_of(*queued), ErrorCode::timed_out);
  EXPECT_EQ(code_of(*late), ErrorCode::timed_out);
  EXPECT_EQ(patient->wait().tokens.size(), 3u);
}

TEST(Loop, AnIdleEngineWaitsForCompany) {
  std::atomic<int> first_rows{0};
  EngineOptions patient = options(2);
  patient.batch_timeout_ms = 100'000;
  Engine engine(std::make_unique<HookedExecutor>(100,
                                                 [&](int step, const exec::Step& s) {
                                                   if (step == 1) first_rows = s.batch.rows();
                                                 }),
                patient);
  const auto first = submit(engine, work(5, 3));
  const auto second = submit(engine, work(7, 3, 500));
  first->wait();
  second->wait();
  EXPECT_EQ(first_rows, 12);
}

TEST(Loop, NobodyWaitsForCompanyBeyondADeadline) {
  EngineOptions patient = options(3);
  patient.batch_timeout_ms = 3'600'000;
  Engine engine(std::make_unique<ScriptedExecutor>(100, kVocab), patient);
  const auto first = submit(engine, work(5, 3));
  std::this_thread::sleep_for(20ms);  // so that it waits for company already
  Request late = work(7, 3), queued = work(7, 3);
  late.deadline = std::chrono::steady_clock::now();
  EXPECT_EQ(code_of(*submit(engine, late)), ErrorCode::timed_out);
  EXPECT_EQ(first->wait().tokens.size(), 3u) << "begins with what the other's time was";
  queued.queue_deadline = std::chrono::steady_clock::now() + 2s;
  EXPECT_EQ(submit(engine, queued)->wait().tokens.size(), 3u) << "begins alone, while there is time";
}

TEST(Loop, OneCallFollowsWhatAStepSays) {
  std::atomic<int> calls{0};
  EngineOptions told = options(4);
  told.on_step = [&] { ++calls; };
  std::atomic<int> steps{0};
  {
    Engine engine(std::make_unique<HookedExecutor>(100, [&](int step, const exec::Step&) { steps = step; }), told);
    std::vector<std::shared_ptr<Answer>> answers;
    for (int i = 0; i < 4; ++i) answers.push_back(submit(engine, work(5, 10, 100 * i)));
    for (const auto& answer : answers) answer->wait();
  }
  EXPECT_GE(calls, steps.load() - 1);
  EXPECT_LE(calls, steps.load() + 1);
}

TEST(Loop, WhoGivesWayToARetryLeavesItsMemoryAndStaysOut) {
  for (const bool cancelled : {false, true}) {
    SCOPED_TRACE(cancelled);
    Engine* engine = nullptr;
    int released = 0;
    class Short final : public HookedExecutor {
     public:
      Short(int& released, Hook hook) : HookedExecutor(100, std::move(hook)), released_(released) {}
      void release_pages(std::span<const int32_t> pages) override { released_ += int(pages.size()); }

     private:
      int& released_;
    };
    EngineOptions two = options(2);
    two.batch_timeout_ms = 100'000;
    Engine made(std::make_unique<Short>(released,
                                        [&](int step, const exec::Step&) {
                                          if (step == 3) {
                                            if (cancelled) engine->cancel(1);
                                            throw Error(ErrorCode::out_of_memory, "cpu", "no memory");
                                          }
                                          if (step == 4 && !cancelled) {
                                            EXPECT_EQ(engine->stats().running, 1);
                                            EXPECT_EQ(engine->stats().pages_cached, 0);
                                            EXPECT_GE(released, 3) << "the prompt of the other";
                                          }
                                        }),
                two);
    engine = &made;
    std::vector<Request> works = {work(200, 20), work(200, 20, 500)};
    const std::vector<std::shared_ptr<Answer>> answers = {std::make_shared<Answer>(), std::make_shared<Answer>()};
    for (size_t i = 0; i < 2; ++i) works[i].sink = answers[i];
    made.submit(works);
    EXPECT_EQ(answers[1]->wait().tokens, continuation(works[1]));
    EXPECT_EQ(answers[0]->wait().tokens.size(), cancelled ? 2u : 20u);
    EXPECT_EQ(made.stats().preemptions, 1u);
  }
}

TEST(Loop, WhoGaveWayIsCountedOnce) {
  Engine* engine = nullptr;
  Engine made(std::make_unique<HookedExecutor>(24,
                                               [&](int, const exec::Step&) {
                                                 const text::ServingStats stats = engine->stats();
                                                 EXPECT_LE(stats.running + stats.waiting, 4);
                                               }),
              options(4));
  engine = &made;
  std::vector<std::shared_ptr<Answer>> answers;
  for (int i = 0; i < 4; ++i) answers.push_back(submit(made, work(40, 600, 100 * i)));
  for (const auto& answer : answers) EXPECT_EQ(answer->wait().tokens.size(), 600u);
  EXPECT_GT(made.stats().preemptions, 0u);
}

TEST(Loop, AStepWithoutMemoryIsTriedAgainSmaller) {
  for (const int failures : {1, 2, 3}) {
    SCOPED_TRACE(failures);
    std::vector<int> rows;
    EngineOptions eight = options(8);
    eight.batch_timeout_ms = 100'000;
    eight.step_target_ms = 0;
    Engine engine(std::make_unique<HookedExecutor>(400,
                                                   [&](int step, const exec::Step& s) {
                                                     rows.push_back(s.batch.rows());
                                                     if (step > 1 && step <= 1 + failures)
                                                       throw Error(ErrorCode::out_of_memory, "cpu", "no memory");
                                                   }),
                  eight);
    std::vector<Request> works;
    std::vector<std::shared_ptr<Answer>> answers;
    for (int i = 0; i < 8; ++i) {
      works.push_back(work(200, 5, 50 * i));
      answers.push_back(std::make_shared<Answer>());
      works.back().sink = answers.back();
    }
    engine.submit(works);
    int failed = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
      try {
        EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << i;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
        ++failed;
      }
    }
    EXPECT_EQ(failed, failures / 2) << "one, when it failed again";
    EXPECT_LT(rows[2], rows[1]);
    EXPECT_EQ(engine.stats().failed, uint64_t(failed));
  }
}

TEST(Loop, APromptForWhoseLargeStepsThereIsNoMemoryIsAnsweredInSmallOnes) {
  std::vector<int> rows;
  EngineOptions alone = options(4);
  alone.prefill_chunk = 64;
  alone.prefill_alone = 256;
  alone.step_target_ms = 0;
  Engine engine(std::make_unique<HookedExecutor>(400,
                                                 [&](int, const exec::Step& s) {
                                                   rows.push_back(s.batch.rows());
                                                   if (s.batch.rows() > 100)
                                                     throw Error(ErrorCode::out_of_memory, "cpu", "no memory");
                                                 }),
                alone);
  for (int round = 0; round < 3; ++round) {
    Request request = work(900, 5, 50 * round);
    const auto answer = std::make_shared<Answer>();
    request.sink = answer;
    engine.submit(request);
    EXPECT_EQ(answer->wait().tokens, continuation(request)) << round;
  }
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](int one) { return one > 100; }), 2) << "256 and 128, once each";
  EXPECT_EQ(engine.stats().failed, 0u);
  EXPECT_EQ(engine.stats().preemptions, 0u);
}

TEST(Loop, SparePagesGoBackAndTheCachesStay) {
  class Releasing final : public ScriptedExecutor {
   public:
    Releasing(std::atomic<int>& released) : ScriptedExecutor(100, kVocab), released_(released) {}
    void release_pages(std::span<const int32_t> pages) override { released_ += int(pages.size()); }

   private:
    std::atomic<int>& released_;
  };
  std::atomic<int> released{0};
  EngineOptions hasty = options(1);
  hasty.keep_spare_ms = 1;
  Engine engine(std::make_unique<Releasing>(released), hasty);
  Request off = work(640, 1, 3);
  off.cache = false;
  EXPECT_EQ(submit(engine, work(640, 1))->wait().cached, 0);
  submit(engine, off)->wait();
  while (released < 10) std::this_thread::yield();
  EXPECT_EQ(submit(engine, work(640, 1))->wait().cached, 639);
  EXPECT_EQ(engine.stats().pages_cached, 10);
}

TEST(Loop, ManyThreadsSubmitCancelAndLook) {
  Engine engine(std::make_unique<ScriptedExecutor>(60, kVocab), options(8));
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        const Request request = work(1 + (t * 41 + i * 17) % 300, 1 + i % 40, t % 3);
        const auto answer = submit(engine, request);
        if (i % 5 == 4) engine.cancel(answer->id);
        const GenerationResult result = answer->wait();
        if (result.reason == text::FinishReason::cancelled) continue;
        EXPECT_EQ(result.tokens, continuation(request));
        ++answered;
        EXPECT_LE(engine.stats().pages_used, 60);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(answered, 8 * 32);
  EXPECT_EQ(engine.stats().pages_used, 0);
}

}  // namespace
}  // namespace bumblebee::engine
