// Streams with readers of all kinds, worker threads, what the queue says, confined paths, metrics.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "bumblebee/error.h"
#include "serve/confined_path.h"
#include "serve/log_queue.h"
#include "serve/metrics.h"
#include "serve/queue.h"
#include "serve/stream.h"
#include "serve/workers.h"
#include "tests/serve/core/fake_exchange.h"

namespace bumblebee::serve {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

TEST(Stream, PiecesOfAStepAreWrittenOnce) {
  auto exchange = std::make_shared<FakeExchange>();
  Stream stream(exchange);
  EXPECT_TRUE(stream.add("a"));
  EXPECT_FALSE(stream.add("b"));
  EXPECT_TRUE(stream.flush(Stream::Clock::now()));
  EXPECT_EQ(exchange->writes(), 0) << "nothing goes out before the head";
  EXPECT_TRUE(stream.begin({}));
  EXPECT_TRUE(stream.flush(Stream::Clock::now()));
  EXPECT_EQ(exchange->writes(), 1);
  EXPECT_EQ(exchange->body(), "ab");
  EXPECT_TRUE(stream.add("c"));
  stream.end("d");
  stream.end("e");
  EXPECT_EQ(exchange->body(), "abcd");
  EXPECT_TRUE(exchange->ended());
  EXPECT_FALSE(stream.add("f"));
  EXPECT_TRUE(stream.flush(Stream::Clock::now()));
  EXPECT_EQ(exchange->body(), "abcd");
}

TEST(Stream, AWholeAnswerInPlaceOfPieces) {
  auto exchange = std::make_shared<FakeExchange>();
  Stream stream(exchange);
  stream.add("dropped");
  EXPECT_TRUE(stream.respond({429, {}, "busy"}));
  EXPECT_EQ(exchange->body(), "busy");
  EXPECT_FALSE(stream.begin({}));
  auto begun = std::make_shared<FakeExchange>();
  Stream other(begun);
  EXPECT_TRUE(other.begin({}));
  EXPECT_FALSE(other.respond({429, {}, "busy"}));
}

TEST(Stream, AReaderWhoDoesNotKeepUpIsLetGo) {
  auto exchange = std::make_shared<FakeExchange>();
  const std::weak_ptr<FakeExchange> watched = exchange;
  Stream stream(exchange);
  stream.begin({});
  exchange->stop_reading();
  exchange.reset();
  const std::string piece(1000, 'x');
  int written = 0;
  while (true) {
    stream.add(piece);
    if (!stream.flush(Stream::Clock::now())) break;
    ++written;
    ASSERT_LT(written, 1000);
  }
  EXPECT_EQ(size_t(written), Stream::kMostUnsent / piece.size() + 1);
  EXPECT_TRUE(watched.expired()) << "the connection is broken off when the last handle goes";
  EXPECT_TRUE(stream.flush(Stream::Clock::now())) << "let go once";
}

TEST(Stream, ALargePieceIsNoReasonToLetAReaderGo) {
  auto exchange = std::make_shared<FakeExchange>();
  Stream stream(exchange);
  stream.begin({});
  exchange->stop_reading();  // for as long as it takes to read the first
  stream.add(std::string(Stream::kMostUnsent * 3, 'x'));
  EXPECT_TRUE(stream.flush(Stream::Clock::now()));
  const std::string piece(Stream::kMostUnsent / 2, 'y');
  for (const bool good : {true, true, false}) {
    stream.add(piece);
    EXPECT_EQ(stream.flush(Stream::Clock::now()), good);
  }
}

TEST(Stream, AClientThatLeftIsNoticedAtTheNextWrite) {
  auto exchange = std::make_shared<FakeExchange>();
  Stream stream(exchange);
  stream.begin({});
  exchange->leave();
  stream.add("x");
  EXPECT_FALSE(stream.flush(Stream::Clock::now()));
}

TEST(Stream, QuietOnesSayThatTheyAreAlive) {
  auto exchange = std::make_shared<FakeExchange>();
  Stream stream(exchange);
  const auto now = Stream::Clock::now();
  EXPECT_TRUE(stream.keep_alive(now + 1h, 10s));
  EXPECT_EQ(exchange->body(), "") << "not before the head";
  stream.begin({});
  EXPECT_TRUE(stream.keep_alive(now + 5s, 10s));
  EXPECT_EQ(exchange->body(), "");
  EXPECT_TRUE(stream.keep_alive(now + 11s, 10s));
  EXPECT_EQ(exchange->body(), ": keep-alive\n\n");
  EXPECT_TRUE(stream.keep_alive(now + 12s, 10s));
  EXPECT_EQ(exchange->writes(), 1);
}

TEST(Workers, RefuseWhatWouldWaitAndDoTheRest) {
  std::promise<void> gate;
  std::shared_future<void> open = gate.get_future().share();
  std::atomic<int> done = 0;
  std::promise<void> running;
  {
    Workers workers(1, 1, 1000);
    workers.allow(3);
    ASSERT_TRUE(workers.post([&] {
      running.set_value();
      open.wait();
      ++done;
    }));
    running.get_future().wait();
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(workers.post([&] { ++done; }));
    EXPECT_TRUE(workers.full());
    EXPECT_FALSE(workers.post([&] { done += 100; }));
    int before = -1;
    workers.finish([&] { before = done++; });  // always, and next
    gate.set_value();
    while (done < 5) std::this_thread::yield();
    EXPECT_EQ(before, 1);
  }
  EXPECT_EQ(done, 5);
}

TEST(Workers, RefuseMoreBytesThanTheyMayHold) {
  std::promise<void> gate, running;
  std::shared_future<void> open = gate.get_future().share();
  std::promise<void> done;
  Workers workers(1, 100, 1000);
  ASSERT_TRUE(workers.post(
      [&, open] {
        running.set_value();
        open.wait();
      },
      600));
  running.get_future().wait();
  EXPECT_FALSE(workers.post([] {}, 401)) << "what runs counts too";
  EXPECT_FALSE(workers.post([] {}, ~uint64_t{0}));
  EXPECT_FALSE(workers.full());
  EXPECT_TRUE(workers.post([&] { done.set_value(); }, 400));
  EXPECT_TRUE(workers.full());
  gate.set_value();
  done.get_future().wait();
  while (workers.full()) std::this_thread::yield();
  std::promise<void> last;
  while (!workers.post([&] { last.set_value(); }, 1000)) std::this_thread::yield();  // all was given back
  last.get_future().wait();
}

TEST(Workers, AThreadThatCannotBeHadIsAnErrorAndNoEnd) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "not run: a sanitizer needs the address space that this test takes away";
#else
  const auto exit_code = [] {
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit{};
    ::getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = pages * uint64_t(::sysconf(_SC_PAGESIZE)) + (uint64_t{256} << 20);
    ::setrlimit(RLIMIT_AS, &limit);
    try {
      const Workers many(100'000, 1, 1);
    } catch (const std::system_error&) {
      return 0;
    }
    return 1;
  };
  EXPECT_EXIT(std::_Exit(exit_code()), testing::ExitedWithCode(0), "");
#endif
}

TEST(Queue, IsFullByPlacesOrByTokensThatWait) {
  const QueueLimits limits{.most_requests = 5, .max_waiting_tokens = 100};
  text::ServingStats stats;
  stats.running = 2;
  stats.waiting = 2;
  stats.waiting_tokens = 99;
  EXPECT_FALSE(limits.full(stats));
  stats.waiting = 3;
  EXPECT_TRUE(limits.full(stats));
  stats.waiting = 2;
  stats.waiting_tokens = 100;
  EXPECT_TRUE(limits.full(stats));
  // As in the engine, a prompt comes in where none waits, however little may.
  const QueueLimits none{.most_requests = 5, .max_waiting_tokens = 0};
  EXPECT_TRUE(none.full(stats));
  stats.waiting_tokens = 0;
  EXPECT_FALSE(none.full(stats));
}

/// The look that refuses says it: a second one may have seen another queue.
TEST(Queue, WhenToComeBackIsInTheSameLook) {
  const QueueLimits limits{.most_requests = 12, .max_waiting_tokens = 100};
  text::ServingStats stats;
  stats.running = 2;
  stats.waiting = 10;
  ASSERT_TRUE(limits.full(stats));
  EXPECT_EQ(retry_after(stats, 2), 6) << "ten that wait and the one that asks, two a second";
  EXPECT_EQ(retry_after(stats, 100), 1);
  EXPECT_EQ(retry_after(stats, 0.01), 60);
  EXPECT_EQ(retry_after(stats, 0), 60) << "nothing has ended yet";
}

TEST(LogQueue, ALogThatIsStuckHoldsUpNobody) {
  std::promise<void> gate;
  std::shared_future<void> open = gate.get_future().share();
  std::vector<std::string> written;
  LogQueue log([&, open](std::string_view line) {
    open.wait();
    written.emplace_back(line);
  });
  const std::string line(1 << 20, 'x');
  for (int i = 0; i < 20; ++i) log.add(line);
  EXPECT_EQ(log.dropped(), 4u);
  EXPECT_FALSE(log.flush(10ms));
  gate.set_value();
  EXPECT_TRUE(log.flush(60s));
  EXPECT_EQ(written.size(), LogQueue::kMostBytes / line.size());
  log.add("last");
  EXPECT_TRUE(log.flush(60s));
  EXPECT_EQ(written.back(), "last");
}

TEST(LogQueue, ALineThatCannotBeWrittenIsCounted) {
  LogQueue log([](std::string_view) { throw std::runtime_error("full"); });
  log.add("one");
  log.add("two");
  EXPECT_TRUE(log.flush(60s));
  EXPECT_EQ(log.dropped(), 2u);
  LogQueue none(nullptr);
  none.add("nowhere");
  EXPECT_TRUE(none.flush(0ms));
}

class ConfinedPath : public testing::Test {
 protected:
  ConfinedPath()
      : folder_(fs::temp_directory_path() / ("bb_confined_" + std::to_string(::getpid()))), root_(folder_ / "root") {
    fs::create_directories(root_ / "good");
    fs::create_directories(folder_ / "outside");
    std::ofstream(root_ / "good/adapters.safetensors") << "x";
    std::ofstream(folder_ / "outside/secret") << "x";
  }
  ~ConfinedPath() override { fs::remove_all(folder_); }
  std::string refusal(const std::string& path) const {
    try {
      return "went to " + fs::canonical(ConfinedDirectory(root_, path).path()).string();
    } catch (const Error& error) {
      const bool absent = path == "absent";
      return error.code() == (absent ? ErrorCode::not_found : ErrorCode::bad_request) ? error.what() : "another code";
    }
  }
  const fs::path folder_, root_;
};

TEST_F(ConfinedPath, FindsWhatIsBelow) {
  const auto place = [&](const char* path) { return fs::canonical(ConfinedDirectory(root_, path).path()); };
  EXPECT_EQ(place("good"), fs::canonical(root_ / "good"));
  fs::create_directory_symlink("good", root_ / "alias");
  EXPECT_EQ(place("alias"), fs::canonical(root_ / "good")) << "a link that stays inside";
  fs::create_symlink("../good/adapters.safetensors", root_ / "good/again");
  EXPECT_EQ(place("good"), fs::canonical(root_ / "good")) << "so does a file's";
}

TEST_F(ConfinedPath, StaysWhereItWentWhateverBecomesOfTheName) {
  const ConfinedDirectory good(root_, "good");
  fs::rename(root_ / "good", root_ / "moved");
  fs::create_directory_symlink(folder_ / "outside", root_ / "good");
  EXPECT_TRUE(fs::exists(good.path() / "adapters.safetensors"));
  EXPECT_FALSE(fs::exists(good.path() / "secret"));
  EXPECT_EQ(good.said("[" + (good.path() / "x").string() + "] in " + good.path().string()), "[good/x] in good");
}

TEST_F(ConfinedPath, LeavesNoDescriptors) {
  const auto open = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  const auto before = open();
  for (int i = 0; i < 3; ++i) {
    (void)ConfinedDirectory(root_, "good");
    (void)refusal("good/adapters.safetensors");
  }
  EXPECT_EQ(open(), before);
}

TEST_F(ConfinedPath, RefusesWhatLeadsOut) {
  fs::create_directory_symlink(folder_ / "outside", root_ / "link");
  fs::create_directory_symlink("../outside", root_ / "relative");
  fs::create_directories(root_ / "trap");
  fs::create_symlink("../../outside/secret", root_ / "trap/adapters.safetensors");
  fs::create_directories(root_ / "pipe");
  ASSERT_EQ(::mkfifo((root_ / "pipe/adapters.safetensors").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((root_ / "fifo").c_str(), 0600), 0);
  for (const std::string& path :
       {std::string("../outside"), std::string("good/../../outside"), (folder_ / "outside").string(),
        std::string("/etc"), std::string("link"), std::string("relative"), std::string("trap"), std::string("pipe"),
        std::string("fifo"), std::string("good/adapters.safetensors"), std::string("absent"), std::string(""),
        std::string("good\0x", 6), std::string(5000, 'a')}) {
    const std::string said = refusal(path);
    EXPECT_NE(said.find("[lora_path]"), std::string::npos) << path.substr(0, 50) << ": " << said;
    EXPECT_EQ(said.find(folder_.string() + "/root"), std::string::npos) << "tells where the root is: " << said;
  }
}

TEST(Metrics, LinesAreWhatPrometheusReads) {
  Metrics metrics;
  const RouteId chat = RouteId::chat_completions;
  metrics.answered(&chat, 200, 0.3);
  metrics.answered(&chat, 200, 700);
  metrics.answered(nullptr, 404, 0);
  metrics.answered(&chat, 418, 0);
  text::Result result;
  result.finish_reason = text::FinishReason::length;
  result.token_summary = {.input = 10, .output = 4};
  result.timings.ttft_s = 0.2;
  metrics.generated(result);
  text::ServingStats stats;
  stats.pages = 10;
  stats.pages_used = 4;
  stats.pages_cached = 5;
  stats.prompt_tokens = (uint64_t{1} << 53) + 1;
  Metrics::Now now;
  now.serving = &stats;
  const std::string text = metrics.print(now);
  for (const char* line :
       {"bumblebee_http_requests_total{route=\"/chat/completions\",code=\"200\"} 2\n",
        "bumblebee_http_requests_total{route=\"/chat/completions\",code=\"other\"} 1\n",
        "bumblebee_http_requests_total{route=\"other\",code=\"404\"} 1\n",
        "bumblebee_request_success_total{finished_reason=\"length\"} 1\n",
        "bumblebee_e2e_request_latency_seconds_bucket{le=\"0.25\"} 0\n",
        "bumblebee_e2e_request_latency_seconds_bucket{le=\"0.5\"} 1\n",
        "bumblebee_e2e_request_latency_seconds_bucket{le=\"600\"} 1\n",
        "bumblebee_e2e_request_latency_seconds_bucket{le=\"+Inf\"} 2\n",
        "bumblebee_e2e_request_latency_seconds_count 2\n", "bumblebee_time_to_first_token_seconds_count 1\n",
        "bumblebee_kv_cache_usage_perc 0.4\n", "bumblebee_kv_pages{state=\"free\"} 1\n",
        "bumblebee_prompt_tokens_total 9007199254740993\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line;
  // Each line is a comment, or a name, perhaps labels, a space and a number.
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# ")) continue;
    const size_t space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos) << line;
    EXPECT_TRUE(line.starts_with("bumblebee_")) << line;
    EXPECT_NO_THROW((void)std::stod(line.substr(space + 1))) << line;
  }
}

}  // namespace
}  // namespace bumblebee::serve
