// The sink of the library's remarks: nothing without one, whole lines with one, from several threads.
#include "base/log.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace bumblebee {
namespace {

class Log : public ::testing::Test {
 protected:
  void TearDown() override { set_log_sink({}); }
};

TEST_F(Log, ReachesTheSinkInOrder) {
  std::vector<std::pair<LogLevel, std::string>> lines;
  set_log_sink([&](LogLevel level, std::string_view message) { lines.emplace_back(level, message); });
  EXPECT_TRUE(is_logged(LogLevel::debug));
  log(LogLevel::warning, "first");
  log(LogLevel::info, "second");
  const std::vector<std::pair<LogLevel, std::string>> want = {{LogLevel::warning, "first"}, {LogLevel::info, "second"}};
  EXPECT_EQ(lines, want);
}

TEST_F(Log, IsSilentWithoutASink) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(is_logged(LogLevel::error));
  log(LogLevel::error, "nobody hears this");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Log, LevelsBelowTheLeastAreDropped) {
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel, std::string_view message) { lines.emplace_back(message); }, LogLevel::warning);
  EXPECT_FALSE(is_logged(LogLevel::info));
  log(LogLevel::debug, "d");
  log(LogLevel::info, "i");
  log(LogLevel::warning, "w");
  log(LogLevel::error, "e");
  EXPECT_EQ(lines, (std::vector<std::string>{"w", "e"}));
}

TEST_F(Log, OneEventIsOneLineOfItsParts) {
  std::string line;
  set_log_sink([&](LogLevel, std::string_view message) { line = message; });
  log(LogLevel::info, "loaded: name='", std::string("a\nb\033[2J\x7fé\u009b1m"), "' bytes=", uint64_t{7},
      " seconds=", 0.5);
  EXPECT_EQ(line, "loaded: name='a\\x0ab\\x1b[2J\\x7fé\\x9b1m' bytes=7 seconds=0.5");
}

TEST_F(Log, ForgetsAReplacedSink) {
  int old_calls = 0, new_calls = 0;
  set_log_sink([&](LogLevel, std::string_view) { ++old_calls; });
  set_log_sink([&](LogLevel, std::string_view) { ++new_calls; });
  log(LogLevel::debug, "x");
  set_log_sink({});
  log(LogLevel::debug, "x");
  EXPECT_EQ(old_calls, 0);
  EXPECT_EQ(new_calls, 1);
}

TEST_F(Log, SurvivesASinkThatThrows) {
  set_log_sink([](LogLevel, std::string_view) { throw std::runtime_error("full disk"); });
  EXPECT_NO_THROW(log(LogLevel::info, "x"));
}

TEST_F(Log, CallsOneThreadAtATime) {
  std::vector<std::string> lines;  // unguarded: the library guards it
  set_log_sink([&](LogLevel, std::string_view message) { lines.emplace_back(message); });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 100; ++i) log(LogLevel::info, "line");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines.size(), 400u);
}

TEST(LogLevel, HasNames) {
  EXPECT_EQ(to_string(LogLevel::debug), "debug");
  EXPECT_EQ(to_string(LogLevel::info), "info");
  EXPECT_EQ(to_string(LogLevel::warning), "warning");
  EXPECT_EQ(to_string(LogLevel::error), "error");
}

}  // namespace
}  // namespace bumblebee
