// What a serving refuses: settings out of range, texts that cannot fit, what its queue has no place for, and what comes
// too late.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "tests/api/serving_test.h"

namespace bumblebee::text {
namespace {

using namespace std::chrono_literals;

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

TEST_F(ServingTest, AListThatWaitsForTokensIsRefusedNothing) {
  GenerationOptions options;
  options.limits = {.batch_size = 1, .sequence_length = 64};
  options.max_waiting_tokens = 12;
  const Generation s = serving(config(3), options);
  const auto blocker = std::make_shared<Blocker>();
  const Request first = s.submit("a", blocker);
  blocker->wait_inside();
  std::vector<Input> list(6, Input("0123456789"));  // of which one may wait at a time
  std::atomic<bool> over{false};
  std::thread caller([&] {
    EXPECT_EQ(s.run(list).size(), 6u);
    over = true;
  });
  while (s.stats().waiting == 0) std::this_thread::yield();
  std::this_thread::sleep_for(100ms);  // for it to look again a few times
  EXPECT_FALSE(over);
  EXPECT_EQ(s.stats().refused, 0u);
  blocker->let_go();
  caller.join();
  first.wait();
  EXPECT_EQ(s.stats().refused, 0u);
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

}  // namespace
}  // namespace bumblebee::text
