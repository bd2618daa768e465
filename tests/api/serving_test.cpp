// Requests that nobody waits for: what a listener hears, when it hears the end, and what it may do to its serving.
// Who is refused: serving_refusals_test.cpp.
#include "tests/api/serving_test.h"

#include <atomic>
#include <future>
#include <set>
#include <thread>

#include "base/rng.h"
#include "bumblebee/log.h"

namespace bumblebee::text {
namespace {

using namespace std::chrono_literals;

GenerationConfig drawing(int max_new) {
  GenerationConfig c = config(max_new);
  c.strategy = MultinomialSampling{};
  c.temperature = 2;
  return c;
}

TEST_F(ServingTest, AListenerHearsWhatRunReturns) {
  GenerationConfig c = config(30);
  c.top_logprobs = 2;
  const Generation s = serving(c);
  const Result want = s.run("Once");
  const auto recorder = std::make_shared<Recorder>();
  const Request request = s.submit("Once", recorder);
  EXPECT_GT(request.id(), 0u);
  const std::vector<Result> got = request.wait();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].text, want.text);
  EXPECT_EQ(got[0].tokens, want.tokens);
  EXPECT_EQ(request.wait()[0].tokens, want.tokens) << "any number of times";
  const Recorder::Answer heard = recorder->answer();
  EXPECT_EQ(heard.text, want.text);
  EXPECT_EQ(heard.tokens, want.tokens);
  EXPECT_EQ(heard.finish_reason, FinishReason::length);
  EXPECT_EQ(heard.input, 4);
  ASSERT_EQ(heard.logprobs.size(), want.logprobs.size());
  for (size_t i = 0; i < want.logprobs.size(); ++i) {
    EXPECT_EQ(heard.logprobs[i].logprob, want.logprobs[i].logprob);
    EXPECT_EQ(heard.logprobs[i].top, want.logprobs[i].top);
  }
  EXPECT_GT(heard.deltas, 10);
  EXPECT_EQ(recorder->ends(), 1);
  ASSERT_EQ(recorder->results().size(), 1u);
  EXPECT_EQ(recorder->results()[0].text, want.text);
  EXPECT_EQ(s.submit("Once", nullptr).wait()[0].text, want.text) << "nobody needs to listen";
}

TEST_F(ServingTest, AnswersAreRequestsWithSeedsOfTheirOwn) {
  const Generation s = serving(drawing(12));
  Input input("Tell me");
  input.seed = 77;
  input.n = 5;
  const auto recorder = std::make_shared<Recorder>();
  const std::vector<Result> answers = s.submit(input, recorder).wait();
  ASSERT_EQ(answers.size(), 5u);
  ASSERT_EQ(recorder->answers(), 5u);
  EXPECT_EQ(recorder->ends(), 1);
  std::set<std::vector<int32_t>> different;
  Input one("Tell me");
  for (int i = 0; i < 5; ++i) {
    const Result& answer = answers[size_t(i)];
    const auto words = philox(77, uint64_t(i));
    EXPECT_EQ(answer.seed, i == 0 ? 77 : (uint64_t{words[0]} << 32 | words[1]) & ((uint64_t{1} << 53) - 1));
    one.seed = answer.seed;
    EXPECT_EQ(s.run(one).tokens, answer.tokens) << i;
    EXPECT_EQ(recorder->answer(i).text, answer.text);
    different.insert(answer.tokens);
  }
  EXPECT_EQ(different.size(), 5u);
  EXPECT_NE(refusal(ErrorCode::bad_request, [&] { s.run(input); }).find("n: expected 1, got 5"), std::string::npos);
}

TEST_F(ServingTest, WithoutASeedEveryRequestHasOneAndSaysWhich) {
  const Generation s = serving(drawing(12));
  const Result a = s.run("x");
  Result b = s.run("x");
  EXPECT_NE(a.seed, b.seed);
  for (int more = 0; more < 50 && b.tokens == a.tokens; ++more) b = s.run("x");  // this model likes one token best
  EXPECT_NE(a.tokens, b.tokens);
  EXPECT_LT(a.seed, uint64_t{1} << 53);
  Input again("x");
  again.seed = a.seed;
  EXPECT_EQ(s.run(again).tokens, a.tokens);
  again.seed.reset();
  again.config = drawing(12);
  again.config->seed = b.seed;
  EXPECT_EQ(s.run(again).tokens, b.tokens);
}

TEST_F(ServingTest, CancelsFromInsideAndOutside) {
  const Generation s = serving(config(kEndless), kLong);
  const auto recorder = std::make_shared<Recorder>();
  std::promise<Request> handle;
  std::shared_future<Request> request = handle.get_future().share();
  recorder->hook = [&](const Delta& delta) {
    if (delta.finish_reason) return;
    if (recorder->answer().tokens.size() == 3) request.get().cancel();
  };
  handle.set_value(s.submit("a", recorder));
  const Result inside = request.get().wait().at(0);
  EXPECT_EQ(inside.finish_reason, FinishReason::cancelled);
  EXPECT_EQ(inside.tokens.size(), 3u) << "its next token is not made";
  EXPECT_EQ(recorder->answer().tokens, inside.tokens);
  EXPECT_EQ(recorder->answer().text, inside.text);
  request.get().cancel();
  EXPECT_EQ(request.get().wait().at(0).tokens.size(), 3u) << "after the end it changes nothing";

  Input several("b");
  several.n = 3;
  const auto other = std::make_shared<Recorder>();
  const Request outside = s.submit(several, other);
  outside.cancel();
  for (const Result& result : outside.wait()) EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
  EXPECT_EQ(other->ends(), 1);
  Input next("a");
  next.config = config(7);
  EXPECT_EQ(s.run(next).tokens.size(), 7u);
}

TEST_F(ServingTest, AListenerMayDropTheLastHandleOfItsServing) {
  for (const bool at_the_end : {false, true}) {
    auto alive = std::make_shared<int>();
    std::weak_ptr<int> gone = alive;
    GenerationOptions options = kLong;
    options.on_step = [keeps = std::move(alive)] {};
    std::optional<Generation> s = serving(config(at_the_end ? 5 : kEndless), options);
    options.on_step = {};
    const auto recorder = std::make_shared<Recorder>();
    std::promise<void> ready;
    recorder->hook = [&, go = ready.get_future().share()](const Delta& delta) {
      go.wait();
      if (delta.finish_reason.has_value() == at_the_end) s.reset();
    };
    const Request request = s->submit("a", recorder);
    ready.set_value();
    if (at_the_end) {
      EXPECT_EQ(request.wait().at(0).tokens.size(), 5u);
    } else {
      refusal(ErrorCode::cancelled, [&] { request.wait(); });
    }
    EXPECT_EQ(recorder->ends(), 1);
    while (!gone.expired()) std::this_thread::sleep_for(1ms);  // another thread ends the serving
    request.cancel();
  }
}

TEST_F(ServingTest, WhoHearsOfAnErrorMayDropTheServingAtOnce) {
  Input input("a");
  input.deadline = 1ms;
  input.n = 2;
  for (int i = 0; i < 100; ++i) {
    std::optional<Generation> s = serving(config(kEndless), kLong);
    std::optional<Request> request = s->submit(input, nullptr);
    refusal(ErrorCode::timed_out, [&] { request->wait(); });
    s.reset();  // perhaps while its thread still holds it
  }
}

TEST_F(ServingTest, AListenerComputesNothingByItself) {
  const Generation s = serving(config(4));
  const auto recorder = std::make_shared<Recorder>();
  std::vector<std::string> refusals;
  recorder->hook = [&](const Delta& delta) {
    if (delta.finish_reason) return;
    refusals.push_back(refusal(ErrorCode::bad_request,
                               [&] { model_.logits(std::vector<int32_t>{1}, [](int, std::span<const float>) {}); }));
    refusals.push_back(refusal(ErrorCode::bad_request, [&] { serving(config(4)); }));
  };
  s.submit("a", recorder).wait();
  EXPECT_EQ(refusals.size(), 8u);
  model_.logits(std::vector<int32_t>{1}, [](int, std::span<const float>) {});
}

TEST_F(ServingTest, ADroppedServingFailsItsRequests) {
  std::optional<Generation> s = serving(config(kEndless), kLong);
  std::vector<std::shared_ptr<Recorder>> recorders;
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    recorders.push_back(std::make_shared<Recorder>());
    requests.push_back(s->submit("a", recorders.back()));
  }
  recorders[0]->wait_tokens(2);
  s.reset();
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(recorders[i]->ends(), 1) << "before the handle is gone";
    EXPECT_EQ(recorders[i]->error().value_or(ErrorCode::device), ErrorCode::cancelled);
    refusal(ErrorCode::cancelled, [&] { requests[i].wait(); });
  }
}

TEST_F(ServingTest, NobodyWaitsOnTheServingsOwnThread) {
  const Generation s = serving(config(4));
  const auto recorder = std::make_shared<Recorder>(), second = std::make_shared<Recorder>();
  std::optional<Request> from_inside;
  std::vector<std::string> refusals;
  recorder->hook = [&](const Delta& delta) {
    if (!delta.finish_reason) return;
    refusals.push_back(refusal(ErrorCode::bad_request, [&] { s.run("x"); }));
    refusals.push_back(refusal(ErrorCode::bad_request, [&] { s.drain(1ms); }));
    from_inside = s.submit("x", second);
    refusals.push_back(refusal(ErrorCode::bad_request, [&] { from_inside->wait(); }));
  };
  s.submit("a", recorder).wait();
  EXPECT_EQ(refusals.size(), 3u);
  EXPECT_EQ(from_inside->wait().at(0).text, s.run("x").text);
}

TEST_F(ServingTest, ASlowListenerChangesNoAnswer) {
  const Generation s = serving(config(20));
  const std::string want_a = s.run("a").text, want_b = s.run("b").text;
  const auto slow = std::make_shared<Recorder>(), other = std::make_shared<Recorder>();
  slow->hook = [](const Delta&) { std::this_thread::sleep_for(3ms); };
  const Request a = s.submit("a", slow), b = s.submit("b", other);
  EXPECT_EQ(a.wait().at(0).text, want_a);
  EXPECT_EQ(b.wait().at(0).text, want_b);
}

TEST_F(ServingTest, EachStepIsFollowedByOneCall) {
  std::atomic<int> deltas{0}, unannounced{0}, steps{0};
  GenerationOptions options;
  options.on_step = [&] {
    ++steps;
    unannounced = 0;
    if (steps == 3) throw std::runtime_error("a careless one");
  };
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::error);
  {
    const Generation s = serving(config(10), options);
    const auto recorder = std::make_shared<Recorder>();
    recorder->hook = [&](const Delta&) { ++deltas, ++unannounced; };
    s.submit("a", recorder).wait();
  }
  set_log_sink({});
  EXPECT_EQ(deltas, 11);
  EXPECT_EQ(unannounced, 0);
  EXPECT_GE(steps, 10);
  EXPECT_NE(told.find("a careless one"), std::string::npos) << told;
}

TEST_F(ServingTest, SaysWhatEndedAnAnswer) {
  const Generation s = serving({});
  Input input("x");
  GenerationConfig c;
  c.max_new_tokens = 12;
  for (int i = 0; i < 12; ++i) c.forced_token_ids[i] = 'a' + i;
  input.config = c;
  EXPECT_EQ(s.run(input).stop_token, std::nullopt);
  input.stop_token_ids = {'f', 'd'};
  Result result = s.run(input);
  EXPECT_EQ(result.text, "abc");
  EXPECT_EQ(result.stop_token, 'd');
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  input.stop_token_ids.clear();
  input.config->stop_strings = {"zz", "fg", "efg"};
  result = s.run(input);
  EXPECT_EQ(result.text, "abcd");
  EXPECT_EQ(result.stop_string, "efg");
  EXPECT_EQ(result.stop_token, std::nullopt);
  input.config->stop_strings.clear();
  input.config->eos_token_ids = {'c'};
  EXPECT_EQ(s.run(input).text, "ab");
  input.ignore_eos = true;
  EXPECT_EQ(s.run(input).text, "abcdefghijkl");
  input.stop_token_ids = {'e'};
  EXPECT_EQ(s.run(input).text, "abcd") << "those that the request names still end it";
}

TEST_F(ServingTest, ControlTokensAreTextWhereTheyAreAskedFor) {
  const Generation s = serving({});
  Input input("x");
  input.config.emplace();
  input.config->max_new_tokens = 3;
  input.config->forced_token_ids = {{0, 'a'}, {1, 257}, {2, 'b'}};
  EXPECT_EQ(s.run(input).text, "ab");
  input.skip_special_tokens = false;
  EXPECT_EQ(s.run(input).text, "a<|im_start|>b");
  input.config->stop_strings = {"<|im"};
  EXPECT_EQ(s.run(input).text, "a");
  input.config->stop_strings.clear();
  const auto recorder = std::make_shared<Recorder>();
  s.submit(input, recorder).wait();
  EXPECT_EQ(recorder->answer().text, "a<|im_start|>b");
}

TEST_F(ServingTest, CountsWhatItDoes) {
  const Generation s = serving(config(10));
  EXPECT_EQ(s.stats().generated_tokens, 0u);
  const int prompt = s.run("Hello").token_summary.input;
  Input input("Hello");
  input.stop_token_ids.assign(95, 0);
  for (int i = 0; i < 95; ++i) input.stop_token_ids[size_t(i)] = 32 + i;
  EXPECT_EQ(s.run(input).finish_reason, FinishReason::stop);
  const auto recorder = std::make_shared<Recorder>();
  std::promise<Request> handle;
  recorder->hook = [request = handle.get_future().share()](const Delta&) { request.get().cancel(); };
  handle.set_value(s.submit("Hello", recorder));
  ASSERT_TRUE(s.drain(10min));
  const ServingStats stats = s.stats();
  EXPECT_EQ(stats.ended_length, 1u);
  EXPECT_EQ(stats.ended_stop, 1u);
  EXPECT_EQ(stats.ended_cancelled, 1u);
  EXPECT_EQ(stats.failed, 0u);
  EXPECT_EQ(stats.prompt_tokens, uint64_t(3 * prompt));
  EXPECT_GE(stats.generated_tokens, 11u);
  EXPECT_GE(stats.steps, 12u);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_GT(stats.pages, 0);
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.page_tokens, 64);
  EXPECT_GT(stats.page_bytes, 0u);
  EXPECT_GT(stats.step_seconds.compute, 0);
}

TEST_F(ServingTest, ServingsAreFoundByName) {
  const Generation s = serving(config(6));
  register_serving("tiny", s);
  refusal(ErrorCode::bad_request, [&] { register_serving("tiny", s); });
  refusal(ErrorCode::bad_request, [&] { register_serving("", s); });
  refusal(ErrorCode::bad_request, [] { batched_run("huge", "x"); });
  std::vector<std::string> got(8);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < got.size(); ++t) threads.emplace_back([&, t] { got[t] = batched_run("tiny", "x").text; });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : got) EXPECT_EQ(text, s.run("x").text);
  const std::vector<Input> inputs = {"x", "y"};
  EXPECT_EQ(batched_run("tiny", inputs).at(1).text, s.run("y").text);
  EXPECT_TRUE(unregister_serving("tiny"));
  EXPECT_FALSE(unregister_serving("tiny"));
}

}  // namespace
}  // namespace bumblebee::text
