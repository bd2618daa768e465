// Requests that nobody waits for: what a listener hears, when it hears the end, and what it may do to its serving.
#include "bumblebee/serving.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "base/rng.h"
#include "bumblebee/log.h"
#include "tests/api/recorder.h"

namespace bumblebee::text {
namespace {

using namespace std::chrono_literals;

const Repository kTiny = local(BB_TEST_DATA "/apps/tiny");

GenerationConfig config(int max_new) {
  GenerationConfig c;
  c.max_new_tokens = max_new;
  for (int32_t id = 0; id < 288; ++id) {
    if (id < 32 || id > 126) c.suppressed_token_ids.push_back(id);
  }
  return c;
}

GenerationConfig drawing(int max_new) {
  GenerationConfig c = config(max_new);
  c.strategy = MultinomialSampling{};
  c.temperature = 2;
  return c;
}

class ServingTest : public ::testing::Test {
 protected:
  Generation serving(const GenerationConfig& c, GenerationOptions options = {}) const {
    if (options.limits.sequence_length == 0) options.limits = {.batch_size = 4, .sequence_length = 256};
    return generation(model_, tokenizer_, c, options);
  }

  ModelOptions one_thread() {
    ModelOptions options;
    options.threads = 1;
    return options;
  }
  Model model_ = load_model(kTiny, one_thread());
  Tokenizer tokenizer_ = load_tokenizer(kTiny);
};

template <class Call>
std::string refusal(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
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
  const Result a = s.run("x"), b = s.run("x");
  EXPECT_NE(a.seed, b.seed);
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

/// Answers that do not end by themselves while a test looks at them.
constexpr int kEndless = 20'000;
const GenerationOptions kLong = {.limits = {.batch_size = 3, .sequence_length = 30'000}};

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

TEST_F(ServingTest, RefusesByName) {
  GenerationOptions options;
  options.batch_keys = {"interactive", "batch"};
  const Generation s = serving(config(4), options);
  const auto refused = [&](const std::function<void(Input&)>& change, const std::string& words) {
    Input input("x");
    change(input);
    const auto recorder = std::make_shared<Recorder>();
    const std::string what = refusal(ErrorCode::bad_request, [&] { s.submit(input, recorder); });
    EXPECT_NE(what.find(words), std::string::npos) << what;
    EXPECT_EQ(recorder->ends(), 0) << "who is refused hears of nothing else";
  };
  refused([](Input& i) { i.n = 0; }, "n: expected 1 to 64, got 0");
  refused([](Input& i) { i.n = 65; }, "n: expected");
  refused([](Input& i) { i.cache_salt = std::string(65, 'a'); }, "cache_salt: expected");
  refused([](Input& i) { i.cache_salt = "a/b"; }, "cache_salt: expected");
  refused([](Input& i) { i.client = std::string(65, 'a'); }, "client: expected");
  refused([](Input& i) { i.stop_token_ids = {288}; },
          "stop_token_ids: expected ids below the vocabulary of 288, got 288");
  refused([](Input& i) { i.stop_token_ids = {-1}; }, "stop_token_ids: expected");
  refused([](Input& i) { i.queue_timeout = 0ms; }, "queue_timeout: expected 1 ms");
  refused([](Input& i) { i.deadline = std::chrono::milliseconds::max(); }, "deadline: expected");
  refused([](Input& i) { i.prompt_progress = [](int, int) {}; }, "prompt_progress: expected nothing");
  refused([](Input& i) { i.batch_key = "other"; }, "unknown batch key: other (expected one of: interactive, batch)");
  Input known("x");
  known.batch_key = "batch";
  EXPECT_EQ(s.run(known).tokens.size(), 4u);

  const auto impossible = [&](const std::function<void(GenerationOptions&)>& change, const std::string& field) {
    GenerationOptions wrong;
    change(wrong);
    const std::string what = refusal(ErrorCode::bad_request, [&] { serving(config(4), wrong); });
    EXPECT_NE(what.find(field + ": expected"), std::string::npos) << what;
  };
  impossible([](GenerationOptions& o) { o.max_waiting = -1; }, "max_waiting");
  impossible([](GenerationOptions& o) { o.max_waiting_tokens = -1; }, "max_waiting_tokens");
  impossible([](GenerationOptions& o) { o.max_active_per_client = -1; }, "max_active_per_client");
  impossible([](GenerationOptions& o) { o.step_target_ms = -1; }, "step_target_ms");
  impossible([](GenerationOptions& o) { o.batch_timeout_ms = -1; }, "batch_timeout_ms");
  impossible([](GenerationOptions& o) { o.batch_keys = {"a", "a"}; }, "batch_keys");
  impossible([](GenerationOptions& o) { o.batch_keys = {""}; }, "batch_keys");
}

TEST_F(ServingTest, ATextThatCannotFitIsRefusedBeforeItIsTokenized) {
  const Generation s = serving(config(4), {.limits = {.batch_size = 1, .sequence_length = 64}});
  const auto too_long = [&](const Input& input) {
    try {
      s.run(input);
    } catch (const TooLong& error) {
      EXPECT_EQ(error.limit(), 64);
      return std::pair(error.tokens(), std::string(error.what()));
    }
    ADD_FAILURE() << "accepted";
    return std::pair(int64_t{0}, std::string());
  };
  ASSERT_EQ(tokenizer_.max_token_bytes(), 13) << "<|endoftext|>";
  EXPECT_EQ(too_long(std::string(64, 'x')).first, 64) << "counted";
  const auto [tokens, what] = too_long(std::string(64 * 13, 'x'));
  EXPECT_EQ(tokens, 64) << "as many at least";
  EXPECT_NE(what.find("got 832 bytes"), std::string::npos) << what;
  Input chat;
  chat.messages = {{"user", std::string(10'000, 'x'), {}}};
  EXPECT_NE(too_long(chat).second.find("bytes"), std::string::npos);
}

/// A listener that keeps its serving's thread until it is let go.
class Blocker final : public Listener {
 public:
  void on_delta(const Delta&) noexcept override {
    inside_.set_value_once();
    go_.wait();
  }
  void on_end(std::vector<Result>) noexcept override {}
  void on_error(const Error&) noexcept override {}
  void wait_inside() { inside_.wait(); }
  void let_go() { go_.set_value_once(); }

 private:
  struct Flag {
    void set_value_once() {
      const std::lock_guard lock(mutex);
      set = true;
      changed.notify_all();
    }
    void wait() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return set; });
    }
    std::mutex mutex;
    std::condition_variable changed;
    bool set = false;
  };
  Flag inside_, go_;
};

TEST_F(ServingTest, AFullQueueRefusesAndListsWait) {
  GenerationOptions options;
  options.limits = {.batch_size = 1, .sequence_length = 64};
  options.max_waiting = 3;
  const Generation s = serving(config(3), options);
  const auto blocker = std::make_shared<Blocker>();
  const Request first = s.submit("a", blocker);
  blocker->wait_inside();
  std::vector<Request> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(s.submit("b", nullptr));
  const auto recorder = std::make_shared<Recorder>();
  refusal(ErrorCode::busy, [&] { s.submit("c", recorder); });
  refusal(ErrorCode::busy, [&] { s.run("c"); });
  EXPECT_EQ(recorder->ends(), 0);
  blocker->let_go();
  first.wait();
  for (const Request& request : waiting) EXPECT_EQ(request.wait().at(0).tokens.size(), 3u);
  Input several("d");
  several.n = 5;
  refusal(ErrorCode::bad_request, [&] { s.submit(several, nullptr); });  // more than can ever run and wait at once
  EXPECT_EQ(s.stats().refused, 2u);
  std::vector<Input> list;
  for (int i = 0; i < 20; ++i) list.emplace_back("prompt " + std::to_string(i));
  const std::vector<Result> results = s.run(list);
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(results[i].tokens, s.run(list[i]).tokens) << i;
  int told = 0;
  const auto stopped = s.stream(list, [&](size_t, std::string_view) { return ++told < 2; });
  ASSERT_EQ(stopped.size(), 20u);
  EXPECT_EQ(told, 2);
  for (const Result& result : stopped) EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
}

TEST_F(ServingTest, DrainsAndTakesNothingNew) {
  const Generation s = serving(config(10));
  const Request request = s.submit("a", nullptr);
  EXPECT_TRUE(s.drain(10min));
  EXPECT_EQ(request.wait().at(0).tokens.size(), 10u);
  refusal(ErrorCode::draining, [&] { s.submit("b", nullptr); });
  refusal(ErrorCode::draining, [&] { s.run("b"); });

  const Generation other = serving(config(kEndless), kLong);
  const auto recorder = std::make_shared<Recorder>();
  const Request long_one = other.submit("a", recorder);
  recorder->wait_tokens(1);
  EXPECT_FALSE(other.drain(1ms));
  EXPECT_EQ(long_one.wait().at(0).finish_reason, FinishReason::cancelled);
}

TEST_F(ServingTest, TimesRunOut) {
  const Generation s = serving(config(kEndless), {.limits = {.batch_size = 1, .sequence_length = 30'000}});
  const auto blocker = std::make_shared<Blocker>();
  const Request first = s.submit("a", blocker);
  blocker->wait_inside();
  Input input("b");
  input.queue_timeout = 1ms;
  const auto recorder = std::make_shared<Recorder>();
  const Request queued = s.submit(input, recorder);
  std::this_thread::sleep_for(5ms);
  blocker->let_go();
  refusal(ErrorCode::timed_out, [&] { queued.wait(); });
  EXPECT_EQ(recorder->error(), ErrorCode::timed_out);
  first.cancel();
  first.wait();
  input.queue_timeout.reset();
  input.deadline = 1ms;
  refusal(ErrorCode::timed_out, [&] { s.run(input); });
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
