// Memory that runs out at any moment of the engine's life: one request is told, the others and the next are answered.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <thread>

#include "base/error.h"
#include "tests/engine/answer.h"
#include "tests/engine/scripted_executor.h"
#include "tests/support/failing_new.h"

namespace bumblebee::engine {
namespace {

using testing_support::AllocationFailure;

Request work(int prompt, int max_new, int32_t first) {
  Request request;
  for (int i = 0; i < prompt; ++i) request.prompt.push_back(first + i);
  request.config.max_new_tokens = max_new;
  return request;
}

/// Three requests over pages for two, while the n-th allocation of them all fails.
TEST(EngineWithoutMemory, OneRequestIsToldAndTheNextIsAnswered) {
  EngineOptions options;
  options.batch_size = 3;
  options.sequence_length = 300;
  options.vocab = kVocab;
  options.d_model = 1;
  options.prefill_chunk = 64;
  Engine engine(std::make_unique<ScriptedExecutor>(9, kVocab), options);
  const std::vector<Request> works = {work(130, 80, 1), work(70, 90, 1), work(40, 40, 500)};
  int told = 0;
  for (int64_t n = 1, happened = true; happened && n <= 5000; ++n) {
    std::vector<std::shared_ptr<Answer>> answers;
    int failed = 0;
    for (size_t i = 0; i < works.size(); ++i) answers.push_back(std::make_shared<Answer>());
    {
      const AllocationFailure failure(n);
      for (size_t i = 0; i < works.size(); ++i) {
        try {
          submit(engine, works[i], answers[i]);
        } catch (const std::bad_alloc&) {
          answers[i] = nullptr;
          ++failed;
        }
      }
      for (const auto& answer : answers) {
        while (answer != nullptr && !answer->over()) std::this_thread::yield();
      }
      happened = failure.happened();
    }
    for (size_t i = 0; i < works.size(); ++i) {
      if (answers[i] == nullptr) continue;
      try {
        EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << "allocation " << n << " request " << i;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::out_of_memory) << error.what();
        ++failed;
      } catch (const std::bad_alloc&) {
        ++failed;
      }
    }
    EXPECT_LE(failed, 1) << "allocation " << n;
    told += failed;
    EXPECT_EQ(submit(engine, works[2])->wait().tokens, continuation(works[2])) << "allocation " << n;
    EXPECT_EQ(engine.stats().pages_used, 0);
    EXPECT_EQ(engine.stats().waiting, 0);
    if (HasFailure()) return;
  }
  EXPECT_GT(told, 20);
}

/// A step fails for want of memory, and what would be said of it fails too: it must be undone all the same.
TEST(EngineWithoutMemory, AStepIsUndoneWhereNothingCanBeSaidOfIt) {
  EngineOptions options;
  options.batch_size = 2;
  options.sequence_length = 300;
  options.vocab = kVocab;
  options.d_model = 1;
  options.prefill_chunk = 64;
  options.batch_timeout_ms = 100'000;
  std::optional<AllocationFailure> failure;
  Engine engine(std::make_unique<HookedExecutor>(20,
                                                 [&](int step, const exec::Step&) {
                                                   if (step != 3) return;
                                                   failure.emplace(1);
                                                   throw std::bad_alloc();
                                                 }),
                options);
  std::vector<Request> works = {work(130, 20, 1), work(130, 20, 500)};
  const std::vector<std::shared_ptr<Answer>> answers = {std::make_shared<Answer>(), std::make_shared<Answer>()};
  for (size_t i = 0; i < 2; ++i) works[i].sink = answers[i];
  engine.submit(works);
  while (!answers[0]->over() || !answers[1]->over()) std::this_thread::yield();
  EXPECT_TRUE(failure && failure->happened());
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(answers[i]->wait().tokens, continuation(works[i])) << i;
}

}  // namespace
}  // namespace bumblebee::engine
