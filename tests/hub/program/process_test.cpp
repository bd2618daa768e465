// Processes that are killed, race, are cancelled, or run out of disk.
#include <signal.h>

#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

class Processes : public HubTest {
 protected:
  static uint64_t sent(const std::string& where = "cdn") {
    uint64_t bytes = 0;
    for (const Request& request : mock().requests(where)) bytes += request.sent;
    return bytes;
  }
  /// Waits for what will come, however slow the machine is; for as long as `process` runs.
  static bool comes(const Process& process, const std::function<bool()>& what) {
    while (!what()) {
      if (process.ended()) return what();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }
  static std::function<bool()> requested(const std::string& where, size_t count = 1) {
    return [=] { return mock().requests(where).size() >= count; };
  }
  /// Whether an unfinished file of so many bytes is there.
  std::function<bool()> written(uint64_t bytes) const {
    return [this, bytes] {
      std::error_code gone;  // files may be renamed meanwhile
      for (auto it = fs::directory_iterator(folder() / "blobs", gone); !gone && it != fs::directory_iterator();
           it.increment(gone)) {
        std::error_code ignored;
        if (it->path().extension() == ".incomplete" && fs::file_size(it->path(), ignored) == bytes) return true;
      }
      return false;
    };
  }
};

TEST_F(Processes, KilledAtFiftyRandomPointsThenResumed) {
  constexpr size_t kSize = 4'000'000;
  const Commit commit = publish({{"config.json", "{}"},
                                 {"a.safetensors", noise(kSize, 1)},
                                 {"b.safetensors", noise(kSize, 2)},
                                 {"sub/c.json", noise(10, 3)}});
  // Fifty runs of at most 60 ms would each see 1.8 MB go by: the whole is reached only by going on.
  mock().fault({{"where", "cdn"}, {"rate", 30'000'000}});
  uint64_t random = 99;
  int killed = 0;
  for (int i = 0; i < 50; ++i) {
    SCOPED_TRACE(i);
    random = random * 6364136223846793005u + 1442695040888963407u;
    const size_t asked = mock().requests("cdn").size();
    Process process(launch({"pull", "org/name"}));
    // Every other run gets as far as the weights, also where a program needs longer than that to start.
    if (i % 2 == 0) comes(process, requested("cdn", asked + 1));
    std::this_thread::sleep_for(std::chrono::microseconds((random >> 33) % 60'000));
    process.kill(SIGKILL);
    const Outcome got = process.wait();
    killed += got.status == 128 + SIGKILL;
    expect_sound();
    if (got.status == 0) {
      fs::remove_all(cache_);  // it was quicker: from the start again
    }
  }
  EXPECT_GE(killed, 30);
  pull();
  expect_complete(commit);
  int ranged = 0;
  for (const Request& request : mock().requests("cdn")) ranged += request.has("range");
  EXPECT_GE(ranged, 1) << "what was there was used";
  for (const auto& entry : fs::recursive_directory_iterator(folder()))
    EXPECT_EQ(entry.path().string().find("incomplete"), std::string::npos) << entry.path();
}

TEST_F(Processes, EightRaceForOneFile) {
  const Commit commit = publish({{"config.json", "{}"}, {kWeights, noise(2'000'000, 1)}});
  mock().fault({{"where", "cdn"}, {"rate", 20'000'000}});
  std::vector<std::unique_ptr<Process>> all;
  for (int i = 0; i < 8; ++i) all.push_back(std::make_unique<Process>(launch({"pull", "org/name"})));
  for (auto& process : all) {
    const Outcome got = process->wait();
    EXPECT_EQ(got.status, 0) << got.err;
  }
  expect_sound();
  expect_complete(commit);
  EXPECT_EQ(sent(), 2'000'000u) << "one downloads, seven wait";
}

TEST_F(Processes, EightRaceWhereLocksLockNothing) {
  const Commit commit = publish({{"config.json", "{}"}, {kWeights, noise(1'000'000, 1)}});
  mock().fault({{"where", "cdn"}, {"rate", 10'000'000}});
  std::vector<std::unique_ptr<Process>> all;
  for (int i = 0; i < 8; ++i)
    all.push_back(std::make_unique<Process>(launch({"pull", "org/name"}, broken_disk("nolocks"))));
  for (auto& process : all) {
    const Outcome got = process->wait();
    if (got.status != 0) expect_error(got, {});
  }
  expect_sound();
  pull();
  expect_complete(commit);
}

TEST_F(Processes, EightRaceAndSomeAreKilled) {
  const Commit commit = publish({{"config.json", "{}"}, {kWeights, noise(2'000'000, 1)}});
  mock().fault({{"where", "cdn"}, {"rate", 8'000'000}});
  std::vector<std::unique_ptr<Process>> all;
  for (int i = 0; i < 8; ++i) all.push_back(std::make_unique<Process>(launch({"pull", "org/name"})));
  ASSERT_TRUE(comes(*all[0], requested("cdn")));
  for (int i = 0; i < 4; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    all[size_t(i)]->kill(SIGKILL);
  }
  for (int i = 0; i < 8; ++i) {
    const Outcome got = all[size_t(i)]->wait();
    EXPECT_EQ(got.status, i < 4 && got.status != 0 ? 128 + SIGKILL : 0) << got.err;
  }
  expect_sound();
  expect_complete(commit);
}

TEST_F(Processes, DifferentRevisionsAtOnceShareTheirBlobs) {
  const Commit first = publish(small_model(1'000'000));
  Files files = small_model(1'000'000);
  files["config.json"] = "{\"model_type\": \"qwen3\"}";
  const Commit second = publish(files, "org/name", {{"branch", "next"}});
  mock().fault({{"where", "cdn"}, {"rate", 10'000'000}});
  Process a(launch({"pull", "org/name"})), b(launch({"pull", "org/name@next"}));
  EXPECT_EQ(a.wait().status, 0);
  EXPECT_EQ(b.wait().status, 0);
  expect_sound();
  expect_complete(first);
  expect_complete(second);
}

TEST_F(Processes, CancelledWithCtrlC) {
  const Commit commit = publish({{"config.json", "{}"}, {kWeights, noise(2'000'000, 1)}});
  mock().fault({{"where", "cdn"}, {"stall_at", 1'000'000}});
  Process process(launch({"pull", "org/name"}));
  ASSERT_TRUE(comes(process, written(1'000'000)));
  process.kill(SIGINT);
  const Outcome got = process.wait();
  EXPECT_EQ(got.status, 130) << got.err;
  expect_sound();
  expect_absent(commit, kWeights);
  mock().command({{"op", "clear"}});
  pull();
  expect_complete(commit);
  EXPECT_EQ(sent(), 1'000'000u) << "goes on where it was";
}

TEST_F(Processes, CancelledWhileWaitingForAnother) {
  publish({{"config.json", "{}"}, {kWeights, noise(2'000'000, 1)}});
  mock().fault({{"where", "cdn"}, {"stall_at", 1'000'000}});
  Process first(launch({"pull", "org/name"}));
  ASSERT_TRUE(comes(first, requested("cdn")));
  Process second(launch({"pull", "org/name"}));
  std::this_thread::sleep_for(
      std::chrono::milliseconds(300));  // to come to the lock; where that takes longer, so be it
  second.kill(SIGINT);
  EXPECT_EQ(second.wait().status, 130);
  first.kill(SIGTERM);
  EXPECT_NE(first.wait().status, 0);
  expect_sound();
}

TEST_F(Processes, TheDiskIsFullHalfWay) {
  const Commit commit = publish(small_model(3'000'000));
  // Files come side by side: any that still has to write meets the full disk, so which one is named is open.
  expect_error(pull_fails("org/name", broken_disk("full:1000000")), {"[org/name/", "no space left", "make room"});
  expect_absent(commit, kWeights);
  pull();
  expect_complete(commit);
}

TEST_F(Processes, TheDiskIsFullFromTheStart) {
  const Commit commit = publish(small_model());
  expect_error(pull_fails("org/name", broken_disk("full:0")), {"no space left"});
  for (const auto& [path, file] : commit.files)
    if (file.size > 0) expect_absent(commit, path);
}

TEST_F(Processes, FilesMayNotGrowThatLarge) {
  const Commit commit = publish(small_model(3'000'000));
  Launch limited = launch({"pull", "org/name"});
  limited.file_size_limit = 1 << 20;  // EFBIG, as with a quota
  expect_error(Process(limited).wait(), {commit[kWeights].etag, "too large"});
  expect_sound();
  expect_absent(commit, kWeights);
  pull();
  expect_complete(commit);
}

TEST_F(Processes, TheDiskDoesNotKeepWhatIsWritten) {
  const Commit commit = publish(small_model());
  expect_error(pull_fails("org/name", broken_disk("nosync")), {"input/output error"});
  expect_absent(commit, kWeights);
}

}  // namespace
}  // namespace bumblebee::hub_test
