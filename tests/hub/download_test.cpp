// Downloads in this process, so that sanitizers see them: threads, broken bodies, cancelling at any moment.
#include "hub/download.h"

#include <atomic>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "tests/hub/program/hub_test.h"

namespace bumblebee::hub_test {
namespace {

const std::string kWeights = "model.safetensors";

class DownloadTest : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model());
    settings_.endpoint = mock().hub;
    settings_.cache = cache_;
    settings_.retry.first_wait = hub::Milliseconds(5);
    what_.id = "org/name";
  }
  void succeeds() {
    const hub::Downloaded got = hub::download(settings_, what_);
    EXPECT_EQ(got.commit, commit_.sha);
    expect_sound();
    expect_complete(commit_);
  }
  void fails(ErrorCode code) {
    try {
      hub::download(settings_, what_);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
    }
    expect_sound();
    expect_absent(commit_, kWeights);
  }
  Commit commit_;
  hub::Settings settings_;
  hub::Download what_;
};

TEST_F(DownloadTest, Whole) {
  EXPECT_TRUE(hub::cached_snapshot(settings_, what_).empty());
  succeeds();
  EXPECT_EQ(hub::cached_snapshot(settings_, what_), snapshot(commit_));
}

TEST_F(DownloadTest, TextAloneTakesNoWeightsAway) {
  const Commit first = commit_;
  succeeds();
  commit_ = publish(small_model(200'000, 5));
  what_.selection.weights = false;
  EXPECT_EQ(hub::download(settings_, what_).commit, commit_.sha);
  what_.selection.weights = true;
  EXPECT_EQ(hub::cached_snapshot(settings_, what_), snapshot(first)) << "offline there is still a model";
  succeeds();
  EXPECT_EQ(hub::cached_snapshot(settings_, what_), snapshot(commit_));
}

TEST_F(DownloadTest, BrokenBodies) {
  mock().fault({{"where", "cdn"}, {"truncate_at", 70'000}, {"times", 2}});
  mock().fault({{"where", "cdn"}, {"reset_at", 10'000}, {"skip", 2}, {"times", 1}});
  mock().fault({{"where", "cdn"}, {"ignore_range", true}, {"ranged", true}, {"skip", 3}, {"times", 1}});
  mock().fault({{"where", "hub"}, {"drop", true}, {"times", 2}});
  std::map<std::string, int> events;
  set_log_sink([&](LogLevel, std::string_view line) {
    ++events[std::string(line.substr(0, line.find(':')))];
    EXPECT_EQ(line.find('?'), std::string::npos) << "a query may hold a signature: " << line;
  });
  succeeds();
  set_log_sink({});
  EXPECT_GE(events["hub retries"], 4);
  EXPECT_GT(events["hub request"], events["hub retries"]);
  EXPECT_EQ(events["hub files"], 1);
}

TEST_F(DownloadTest, WrongBytes) {
  mock().fault({{"where", "cdn"}, {"flip", 250'000}});
  fails(ErrorCode::bad_file);
  mock().command({{"op", "clear"}});
  succeeds();
}

TEST_F(DownloadTest, Refusals) {
  mock().fault({{"where", "cdn"}, {"status", 500}});
  fails(ErrorCode::network);
  mock().command({{"op", "clear"}});
  const nlohmann::json outside = {
      {"type", "file"}, {"path", "/x.json"}, {"size", 0}, {"oid", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}};
  mock().fault({{"where", "hub"}, {"path", "*/tree/*"}, {"json", nlohmann::json::array({outside})}});
  std::filesystem::remove_all(cache_);
  fails(ErrorCode::bad_file);
  mock().command({{"op", "clear"}});
  mock().fault({{"where", "cdn"}, {"redirect", "{target}x"}});
  fails(ErrorCode::network);
  settings_.offline = true;
  fails(ErrorCode::bad_file);
}

TEST_F(DownloadTest, CancelledAtAnyMoment) {
  mock().fault({{"where", "cdn"}, {"rate", 1'500'000}});
  for (int calls = 0; calls < 8; ++calls) {
    int left = calls;
    what_.progress = [&](const hub::Progress&) { return left-- > 0; };
    try {
      hub::download(settings_, what_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::cancelled) << error.what();
    }
    expect_sound();
  }
  what_.progress = {};
  succeeds();
}

TEST_F(DownloadTest, ThreadsOverOneCache) {
  const Commit other = publish(small_model(200'000, 5), "org/name", {{"branch", "other"}});
  mock().fault({{"where", "cdn"}, {"truncate_at", 50'000}, {"times", 3}});
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      hub::Download what;
      what.id = "org/name";
      what.revision = i % 2 == 0 ? "main" : "other";
      good += hub::download(settings_, what).commit == (i % 2 == 0 ? commit_.sha : other.sha);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 6);
  expect_sound();
  expect_complete(commit_);
  expect_complete(other);
}

}  // namespace
}  // namespace bumblebee::hub_test
