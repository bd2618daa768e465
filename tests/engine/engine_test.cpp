// The engine on tiny models: what is packed, chunked, paged, forked or interrupted must not change any answer.
#include "tests/engine/engine_test.h"

#include <atomic>
#include <thread>

#include "backend/registry.h"
#include "base/error.h"
#include "base/log.h"
#include "exec/local_executor.h"
#include "models/registry.h"
#include "tests/engine/scripted_executor.h"
#include "tests/support/tiny_model.h"

namespace bumblebee::engine {
namespace {

INSTANTIATE_TEST_SUITE_P(Devices, OnDevice, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

void expect_same(const GenerationResult& got, const GenerationResult& want) {
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.reason, want.reason);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (size_t i = 0; i < want.logprobs.size(); ++i)
    EXPECT_NEAR(got.logprobs[i].logprob, want.logprobs[i].logprob, kTolerance);
}

TEST_P(OnDevice, GreedyFollowsTheLogitsOfOneLongPrefill) {
  for (const char* name : {"qwen3", "mistral", "llama_biased"}) {
    const Model model = load(golden_model(name), GetParam());
    EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 100, .prefill_chunk = 7});
    std::vector<int32_t> tokens = some_tokens(11, model.info().vocab, 1);
    const GenerationResult outcome = submit(engine, work_of(tokens, greedy(12)))->wait();
    ASSERT_EQ(outcome.tokens.size(), 12u);
    EXPECT_EQ(outcome.reason, text::FinishReason::length);
    tokens.insert(tokens.end(), outcome.tokens.begin(), outcome.tokens.end());
    const auto rows = all_logits(model, tokens);
    for (size_t i = 0; i < 12; ++i) {
      EXPECT_EQ(argmax(rows[10 + i]), outcome.tokens[i]) << name << " token " << i;
      EXPECT_NEAR(outcome.logprobs[i].logprob, log_probability(rows[10 + i], outcome.tokens[i]), kTolerance);
    }
  }
}

TEST_P(OnDevice, DecodeEqualsPrefillAtEveryBorder) {
  const Model model = load_alike(golden_model("qwen3"), GetParam());
  const std::vector<int32_t> tokens = some_tokens(132, model.info().vocab, 3);
  const auto rows = all_logits(model, tokens);
  EngineOn engine(model.state(), {.batch_size = 4, .sequence_length = 140, .prefill_chunk = 48});
  std::vector<std::pair<int, std::shared_ptr<Answer>>> jobs;
  for (int n : {1, 2, 47, 48, 49, 63, 64, 65, 96, 127, 128, 129, 131}) {
    GenerationConfig config = greedy(int(tokens.size()) - n);
    for (int i = n; i < int(tokens.size()); ++i) config.forced_token_ids[i - n] = tokens[size_t(i)];
    jobs.emplace_back(n, submit(engine, work_of({tokens.begin(), tokens.begin() + n}, config)));
  }
  for (auto& [n, job] : jobs) {
    const GenerationResult outcome = job->wait();
    ASSERT_EQ(outcome.tokens, std::vector<int32_t>(tokens.begin() + n, tokens.end()));
    for (size_t i = 0; i < outcome.tokens.size(); ++i) {
      EXPECT_NEAR(outcome.logprobs[i].logprob, log_probability(rows[size_t(n) - 1 + i], outcome.tokens[i]), kTolerance)
          << "prefill " << n << " token " << i;
    }
  }
}

TEST_P(OnDevice, PackedSequencesGetTheirSoloResults) {
  const Model model = load_alike(golden_model("llama"), GetParam());
  std::vector<Request> works;
  for (unsigned i = 0; i < 9; ++i) {
    GenerationConfig config = greedy(3 + int(i) * 2);
    if (i % 3 == 1) config.strategy = MultinomialSampling{.top_k = 20, .top_p = 0.9, .min_p = 0};
    if (i % 3 == 2) config.repetition_penalty = 1.2;
    if (i == 4) config.strategy = ContrastiveSearch{.top_k = 3, .alpha = 0.5};
    works.push_back(work_of(some_tokens(1 + int(i * i) * 2, model.info().vocab, i), config, 77 + i));
  }
  std::vector<GenerationResult> solo;
  for (const Request& work : works) {
    EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 200, .prefill_chunk = 512});
    solo.push_back(submit(engine, work)->wait());
  }
  for (const auto& [batch, chunk] : {std::pair(2, 5), std::pair(4, 16), std::pair(16, 512)}) {
    EngineOn engine(model.state(), {.batch_size = batch, .sequence_length = 200, .prefill_chunk = chunk});
    std::vector<std::shared_ptr<Answer>> jobs;
    for (const Request& work : works) jobs.push_back(submit(engine, work));
    for (size_t i = 0; i < jobs.size(); ++i) {
      SCOPED_TRACE(cat("request ", i, " batch ", batch, " chunk ", chunk));
      expect_same(jobs[i]->wait(), solo[i]);
    }
  }
}

/// Contrastive search by definition: every candidate by a whole prefill, no cache, no forks.
std::vector<int32_t> plain_contrastive(const Model& model, std::vector<int32_t> tokens, int count, int top_k,
                                       double alpha) {
  api::ModelState& state = *model.state();
  const size_t d = size_t(state.info.hidden), prompt = tokens.size();
  const auto executor = state.make_executor({.sequences = 1, .sequence_length = 512});
  const auto pass_over = [&](const std::vector<int32_t>& sequence, std::vector<float>& hidden,
                             std::vector<float>& logits) {
    exec::Step step;
    step.batch.append(sequence, 0, std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}, Batch::Want::last);
    step.wants = {.logits = true, .hidden = true};
    const exec::StepResult& result = executor->wait(executor->launch(step));
    logits.assign(result.logits.begin(), result.logits.end());
    hidden.assign(result.hidden.begin(), result.hidden.end());
  };
  const auto cosine = [d](const float* a, const float* b) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < d; ++i) {
      ab += double(a[i]) * b[i];
      aa += double(a[i]) * a[i];
      bb += double(b[i]) * b[i];
    }
    return ab / std::sqrt(aa * bb);
  };
  for (int step = 0; step < count; ++step) {
    std::vector<float> hidden, logits, ignored;
    pass_over(tokens, hidden, logits);
    std::vector<int32_t> order;
    for (int i = 0; i < state.info.vocab; ++i) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[size_t(a)] > logits[size_t(b)]; });
    double best = -1e9;
    int32_t chosen = -1;
    for (int c = 0; c < top_k; ++c) {
      std::vector<int32_t> longer = tokens;
      longer.push_back(order[size_t(c)]);
      pass_over(longer, hidden, ignored);
      double nearest = -1;
      for (size_t t = 0; t < tokens.size(); ++t)
        nearest = std::max(nearest, cosine(&hidden[t * d], &hidden[tokens.size() * d]));
      const double score = (1 - alpha) * std::exp(log_probability(logits, order[size_t(c)])) - alpha * nearest;
      if (score > best) {
        best = score;
        chosen = order[size_t(c)];
      }
    }
    tokens.push_back(chosen);
  }
  return {tokens.begin() + ptrdiff_t(prompt), tokens.end()};
}

TEST_P(OnDevice, ContrastiveSearchIsWhatItsDefinitionSays) {
  const Model model = load(golden_model("qwen3"), GetParam());
  EngineOn engine(model.state(), {.batch_size = 2, .sequence_length = 100, .prefill_chunk = 10});
  GenerationConfig config = greedy(10);
  config.strategy = ContrastiveSearch{.top_k = 4, .alpha = 0.6};
  int unlike_greedy = 0;
  for (int length : {3, 58, 64}) {  // the second crosses a page border while it forks
    const std::vector<int32_t> prompt = some_tokens(length, model.info().vocab, unsigned(length));
    const auto job = submit(engine, work_of(prompt, config));
    const auto plain = submit(engine, work_of(prompt, greedy(10)));  // beside it in the same batches
    const GenerationResult outcome = job->wait();
    EXPECT_EQ(outcome.tokens, plain_contrastive(model, prompt, 10, 4, 0.6));
    unlike_greedy += plain->wait().tokens != outcome.tokens;
  }
  EXPECT_GT(unlike_greedy, 0);
}

TEST_P(OnDevice, ASeedRepeatsInAnyBatch) {
  const Model model = load(golden_model("smollm2"), GetParam());
  GenerationConfig config = greedy(24);
  config.strategy = MultinomialSampling{};
  config.temperature = 1.3;
  const std::vector<int32_t> prompt = some_tokens(9, model.info().vocab, 2);
  EngineOn alone(model.state(), {.batch_size = 1, .sequence_length = 64, .prefill_chunk = 64});
  const GenerationResult first = submit(alone, work_of(prompt, config, 5))->wait();
  EXPECT_NE(first.tokens, submit(alone, work_of(prompt, config, 6))->wait().tokens);
  EngineOn busy(model.state(), {.batch_size = 8, .sequence_length = 64, .prefill_chunk = 4});
  std::vector<std::shared_ptr<Answer>> jobs;
  for (uint64_t i = 0; i < 8; ++i)
    jobs.push_back(
        submit(busy, work_of(i % 2 == 0 ? prompt : some_tokens(int(i) + 3, 100, 9), config, i % 2 == 0 ? 5 : i)));
  for (size_t i = 0; i < jobs.size(); ++i) {
    const GenerationResult outcome = jobs[i]->wait();
    if (i % 2 == 0) expect_same(outcome, first);
  }
}

/// Stops, cancels or, by `none`, throws at the n-th token.
std::shared_ptr<Answer> scripted(int at, TokenSink::StopReason reason) {
  return std::make_shared<Answer>([at, reason](int index) {
    if (index < at) return TokenSink::StopReason::none;
    if (reason == TokenSink::StopReason::none) throw Error(ErrorCode::bad_request, "sink", "a listener that fails");
    return reason;
  });
}

TEST_P(OnDevice, ListenersStopCancelAndFailAlone) {
  const Model model = load(golden_model("qwen3"), GetParam());
  EngineOn engine(model.state(), {.batch_size = 4, .sequence_length = 64, .prefill_chunk = 8});
  const std::vector<int32_t> prompt = some_tokens(5, model.info().vocab, 0);
  std::vector<std::shared_ptr<Answer>> jobs;
  for (const auto& sink : {scripted(3, TokenSink::StopReason::stop), scripted(2, TokenSink::StopReason::cancelled),
                           scripted(4, TokenSink::StopReason::none), std::make_shared<Answer>()})
    jobs.push_back(submit(engine, work_of(prompt, greedy(20)), sink));
  const GenerationResult stopped = jobs[0]->wait();
  EXPECT_EQ(stopped.tokens.size(), 3u);
  EXPECT_EQ(stopped.reason, text::FinishReason::stop);
  const GenerationResult cancelled = jobs[1]->wait();
  EXPECT_EQ(cancelled.tokens.size(), 2u);
  EXPECT_EQ(cancelled.reason, text::FinishReason::cancelled);
  EXPECT_THROW(jobs[2]->wait(), Error);
  EXPECT_EQ(jobs[3]->wait().tokens.size(), 20u);
}

TEST_P(OnDevice, CancelsWaitingAndRunningRequests) {
  const Model model = load(golden_model("qwen3"), GetParam());
  EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 512, .prefill_chunk = 8});
  std::vector<std::shared_ptr<Answer>> jobs;
  for (int i = 0; i < 3; ++i)
    jobs.push_back(submit(engine, work_of(some_tokens(4, model.info().vocab, 1), greedy(500))));
  for (const auto& job : jobs) engine.cancel(job->id);
  for (auto& job : jobs) {
    const GenerationResult outcome = job->wait();
    EXPECT_EQ(outcome.reason, text::FinishReason::cancelled);
    EXPECT_LT(outcome.tokens.size(), 500u);
  }
  EXPECT_EQ(submit(engine, work_of(some_tokens(4, 100, 1), greedy(2)))->wait().tokens.size(), 2u);
}

TEST_P(OnDevice, EndsAtAnyOfSeveralEndTokens) {
  const Model model = load(golden_model("qwen3"), GetParam());
  EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 64, .prefill_chunk = 64});
  const std::vector<int32_t> prompt = some_tokens(6, model.info().vocab, 4);
  const GenerationResult whole = submit(engine, work_of(prompt, greedy(12)))->wait();
  GenerationConfig config = greedy(12);
  config.eos_token_ids = {127, whole.tokens[4]};
  const GenerationResult ended = submit(engine, work_of(prompt, config))->wait();
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[4]);
  EXPECT_EQ(ended.tokens, std::vector<int32_t>(whole.tokens.begin(), first));
  EXPECT_EQ(ended.reason, text::FinishReason::stop);
  config.min_new_tokens = 9;
  const GenerationResult longer = submit(engine, work_of(prompt, config))->wait();
  EXPECT_GE(longer.tokens.size(), 9u);
}

TEST_P(OnDevice, RefusesRequestsThatDoNotFit) {
  const Model model = load(golden_model("qwen3"), GetParam());
  EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 32, .prefill_chunk = 8});
  const auto message = [&](Request work) {
    try {
      submit(engine, std::move(work));
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::bad_request || error.code() == ErrorCode::too_long);
      return std::string(error.what());
    }
    ADD_FAILURE() << "accepted";
    return std::string();
  };
  EXPECT_NE(message(work_of(some_tokens(32, 100, 0), greedy(1))).find("sequence length of 32, got 32"),
            std::string::npos);
  EXPECT_NE(message(work_of({}, greedy(1))).find("no tokens"), std::string::npos);
  EXPECT_NE(message(work_of({1, 128}, greedy(1))).find("vocabulary of 128, got 128"), std::string::npos);
  EXPECT_NE(message(work_of({1, -1}, greedy(1))).find("got -1"), std::string::npos);
  GenerationConfig config;
  config.max_length = 3;
  EXPECT_NE(message(work_of({1, 2, 3}, config)).find("max_length is 3"), std::string::npos);
  config = greedy(1);
  config.logit_bias[128] = 1;
  EXPECT_NE(message(work_of({1}, config)).find("logit_bias"), std::string::npos);
  const GenerationResult full = submit(engine, work_of(some_tokens(30, 100, 0), greedy(100)))->wait();
  EXPECT_EQ(full.tokens.size(), 2u);  // the sequence length ends it, and the reason says so
  EXPECT_EQ(full.reason, text::FinishReason::length);
}

TEST_P(OnDevice, ManyThreadsGetTheirOwnAnswers) {
  const Model model = load(golden_model("llama"), GetParam());
  std::vector<GenerationResult> solo;
  {
    EngineOn engine(model.state(), {.batch_size = 1, .sequence_length = 64, .prefill_chunk = 64});
    for (unsigned i = 0; i < 8; ++i)
      solo.push_back(submit(engine, work_of(some_tokens(2 + int(i), model.info().vocab, i), greedy(6)))->wait());
  }
  EngineOn first(model.state(), {.batch_size = 3, .sequence_length = 64, .prefill_chunk = 4});
  EngineOn second(model.state(),
                  {.batch_size = 5, .sequence_length = 64, .prefill_chunk = 64});  // two servings of one model
  std::vector<std::thread> threads;
  std::vector<GenerationResult> got(16 * 3);
  for (unsigned t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned round = 0; round < 3; ++round) {
        const unsigned i = (t + round) % 8;
        Engine& engine = t % 2 == 0 ? first : second;
        got[t * 3 + round] = submit(engine, work_of(some_tokens(2 + int(i), model.info().vocab, i), greedy(6)))->wait();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (unsigned t = 0; t < 16; ++t) {
    for (unsigned round = 0; round < 3; ++round) expect_same(got[t * 3 + round], solo[(t + round) % 8]);
  }
}

/// Passes on to the real model, but for the steps in which it fails.
class FailingModel final : public nn::Model {
 public:
  explicit FailingModel(std::unique_ptr<nn::Model> real) : real_(std::move(real)) {
    dims_ = real_->dims();
    target_modules_ = real_->target_modules();
    target_weights_ = real_->target_weights();
  }
  Tensor forward(nn::Pass& pass) const override {
    if (failures_ > 0) {
      --failures_;
      throw std::runtime_error("the device fell over");
    }
    return real_->forward(pass);
  }
  void block(nn::Pass& pass, int i, nn::Residual& residual) const override { real_->block(pass, i, residual); }
  mutable std::atomic<int> failures_{0};

 private:
  std::unique_ptr<nn::Model> real_;
};

TEST_P(OnDevice, AFailedStepFailsItsRequestsOnly) {
  const testing_support::TinyModel tiny;
  std::unique_ptr<Backend> backend =
      require_device(GetParam(), {}).entry->create({.threads = 2, .instruction_set = {}});
  testing_support::MemoryWeights weights = tiny.weights();
  nn::Loader load(weights, backend.get());
  auto failing = std::make_unique<FailingModel>(models::make_model(models::read_spec(tiny.config(), "tiny"), load));
  FailingModel& switchable = *failing;
  const auto device =
      std::make_shared<exec::DeviceModel>(std::move(backend), std::move(failing), "tiny", uint64_t{1} << 30);
  Engine engine(
      std::make_unique<exec::LocalExecutor>(
          device, exec::CacheLimits{.sequences = 2, .sequence_length = 64, .spare_pages = kSparePages}),
      {.batch_size = 2, .sequence_length = 64, .prefill_chunk = 8, .vocab = tiny.vocab, .d_model = tiny.d_model});
  switchable.failures_ = 1;
  try {
    submit(engine, work_of({1, 2, 3}, greedy(3)))->wait();
    ADD_FAILURE() << "the failure was swallowed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::device);
    EXPECT_NE(std::string(error.what()).find("the device fell over"), std::string::npos);
  }
  EXPECT_EQ(submit(engine, work_of({1, 2, 3}, greedy(3)))->wait().tokens.size(), 3u);
}

TEST_P(OnDevice, ShutdownFailsWhatIsLeft) {
  const Model model = load(golden_model("qwen3"), GetParam());
  auto engine = std::make_unique<EngineOn>(model.state(),
                                           EngineOptions{.batch_size = 1, .sequence_length = 512, .prefill_chunk = 8});
  std::vector<std::shared_ptr<Answer>> jobs;
  for (int i = 0; i < 3; ++i) jobs.push_back(submit(*engine, work_of({1, 2, 3}, greedy(500))));
  engine.reset();
  int cancelled = 0;
  for (auto& job : jobs) {
    try {
      job->wait();
    } catch (const Error& error) {
      cancelled += error.code() == ErrorCode::cancelled;
    }
  }
  EXPECT_GE(cancelled, 2);
}

/// Without a model: prompts of many lengths come, go and are cut short over few pages, and every answer is what its own
/// tokens lead to.
TEST(ScriptedEngine, EverySequenceReadsItsOwnTokens) {
  Engine engine(std::make_unique<ScriptedExecutor>(9, kVocab),
                {.batch_size = 5, .sequence_length = 300, .prefill_chunk = 50, .vocab = kVocab, .d_model = 1});
  std::vector<Request> requests;
  std::vector<std::shared_ptr<Answer>> jobs;
  for (unsigned i = 0; i < 60; ++i) {
    requests.push_back(work_of(some_tokens(1 + int(i * 37 % 200), kVocab, i), {}));
    requests.back().config.max_new_tokens = 1 + int(i * 13 % 90);
    jobs.push_back(submit(engine, requests.back()));
  }
  for (size_t i = 0; i < jobs.size(); ++i)
    EXPECT_EQ(jobs[i]->wait().tokens, continuation(requests[i])) << "request " << i;
}

TEST(ScriptedEngine, AStepThatFailsEndsItsRequestsAndIsLogged) {
  class Failing final : public ScriptedExecutor {
   public:
    using ScriptedExecutor::ScriptedExecutor;
    exec::Ticket launch(const exec::Step& step) override {
      if (++steps_ == 3) throw Error(ErrorCode::device, "cpu", "out of order");
      return ScriptedExecutor::launch(step);
    }

   private:
    int steps_ = 0;
  };
  const auto some = [](int tokens) {
    GenerationConfig config;
    config.max_new_tokens = tokens;
    return config;
  };
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel level, std::string_view line) { lines.push_back(cat(to_string(level), " ", line)); });
  {
    Engine engine(std::make_unique<Failing>(9, 1000),
                  {.batch_size = 1, .sequence_length = 300, .prefill_chunk = 50, .vocab = 1000, .d_model = 1});
    EXPECT_THROW((void)submit(engine, work_of({1, 2, 3}, some(9)))->wait(), Error);
    EXPECT_EQ(submit(engine, work_of({1, 2, 3}, some(4)))->wait().tokens.size(), 4u);
  }
  set_log_sink({});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "error step failed: code=device segments=1 rows=1 what='[cpu] out of order'");
  EXPECT_TRUE(lines[1].starts_with("debug request ended: id=2 tokens=4 queue_s=")) << lines[1];
}

/// Each token is what the whole text before it says, in one piece and with the rotation of its length.
TEST_P(OnDevice, LongTextsRotateOtherwiseFromTheirFirstTokenOn) {
  if (testing_support::lacks(GetParam(), Operation::split) || testing_support::lacks(GetParam(), Operation::long_rope))
    GTEST_SKIP() << "no long rotations on " << GetParam();
  const Model model = load_alike(BB_TEST_DATA "/goldens/dense/phi4_beyond", GetParam());
  constexpr int kOriginal = 72;
  EngineOn engine(model.state(), {.batch_size = 3, .sequence_length = 200, .prefill_chunk = 33});
  const std::vector<int32_t> tokens = some_tokens(120, model.info().vocab, 5);
  const auto ask = [&](int prompt, int cached) {
    std::vector<int32_t> text(tokens.begin(), tokens.begin() + prompt);
    const GenerationResult got = submit(engine, work_of(text, greedy(8)))->wait();
    ASSERT_EQ(got.tokens.size(), 8u);
    EXPECT_EQ(got.cached, cached) << "prompt of " << prompt;
    for (size_t i = 0; i < got.tokens.size(); ++i) {
      const auto rows = all_logits(model, text);
      EXPECT_EQ(argmax(rows.back()), got.tokens[i]) << "prompt of " << prompt << ", token " << i;
      EXPECT_NEAR(got.logprobs[i].logprob, log_probability(rows.back(), got.tokens[i]), kTolerance);
      text.push_back(got.tokens[i]);
    }
  };
  ask(kOriginal - 4, 0);                 // crosses on its way
  ask(kOriginal - 5, 64);                // its beginning is that of a short text
  ask(kOriginal + 20, exec::kPageSize);  // and this one's that of a long one
  ask(kOriginal, 64);
  ask(kOriginal + 1, 64);
  EXPECT_EQ(engine.stats().preemptions, 0u);
}

}  // namespace
}  // namespace bumblebee::engine
