// The library's own calls against the mock: progress, cancelling, selections, errors by their codes.
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "bumblebee/error.h"
#include "bumblebee/hub.h"
#include "hub/download.h"
#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

class Api : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    for (const auto& [name, value] : environment()) ::setenv(name.c_str(), value.c_str(), 1);
    for (const char* name : {"HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME", "http_proxy", "https_proxy",
                             "all_proxy", "HF_HUB_DISABLE_SYMLINKS"})
      ::unsetenv(name);
    commit_ = publish(small_model());
  }
  ErrorCode code_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      expect_sound();
      return error.code();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorCode::cancelled;
  }
  static ErrorCode pull_code(const std::string& id, const PullOptions& options = {}) {
    try {
      bumblebee::pull(id, options);
    } catch (const Error& error) {
      return error.code();
    }
    ADD_FAILURE() << id << " was pulled";
    return ErrorCode::cancelled;
  }
  Commit commit_;
};

TEST_F(Api, TellsWhatItDid) {
  const PullResult first = bumblebee::pull("org/name");
  uint64_t bytes = 0;
  for (const auto& [path, file] : commit_.files) bytes += file.size;
  EXPECT_EQ(first.commit, commit_.sha);
  EXPECT_EQ(first.directory, snapshot(commit_));
  EXPECT_EQ(first.files, int(commit_.files.size()));
  EXPECT_EQ(first.fetched_files, int(commit_.files.size()));
  EXPECT_EQ(first.bytes, bytes);
  EXPECT_EQ(first.fetched_bytes, bytes);
  EXPECT_EQ(first.stale, "");
  const PullResult again = bumblebee::pull("org/name");
  EXPECT_EQ(again.fetched_files, 0);
  EXPECT_EQ(again.fetched_bytes, 0u);
  EXPECT_EQ(again.bytes, bytes);
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_NE(bumblebee::pull("org/name").stale, "");
  expect_sound();
}

TEST_F(Api, Progress) {
  uint64_t last = 0, calls = 0, total = 0;
  int files = 0;
  const std::thread::id caller = std::this_thread::get_id();
  mock().fault({{"where", "cdn"}, {"rate", 600'000}});
  PullOptions options;
  options.hub.progress = [&](const HubProgress& progress) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_GE(progress.done, last);
    EXPECT_LE(progress.done, progress.total);
    for (const HubFileProgress& file : progress.active) EXPECT_LE(file.done, file.total) << file.path;
    last = progress.done, total = progress.total, files = progress.files_done;
    ++calls;
    return true;
  };
  const PullResult result = bumblebee::pull("org/name", options);
  EXPECT_GE(calls, 4u) << "half a second, about twenty times a second";
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, result.bytes);
  EXPECT_EQ(files, result.files);
}

TEST_F(Api, Cancel) {
  mock().fault({{"where", "cdn"}, {"rate", 100'000}});
  PullOptions options;
  options.hub.progress = [](const HubProgress& progress) { return progress.done < 30'000; };
  EXPECT_EQ(code_of([&] { bumblebee::pull("org/name", options); }), ErrorCode::cancelled);
  expect_absent(commit_, kWeights);
  mock().command({{"op", "clear"}});
  bumblebee::pull("org/name");
  expect_complete(commit_);
  const std::vector<Request> bodies = mock().requests("cdn");
  ASSERT_FALSE(bodies.empty());
  EXPECT_TRUE(bodies[0].has("range")) << "goes on where it was";
}

TEST_F(Api, ACallbackThatThrows) {
  PullOptions options;
  options.hub.progress = [](const HubProgress&) -> bool { throw std::runtime_error("mine"); };
  EXPECT_THROW(bumblebee::pull("org/name", options), std::runtime_error);
  expect_sound();
  bumblebee::pull("org/name");
  expect_complete(commit_);
}

TEST_F(Api, Selections) {
  PullOptions options;
  options.include = {"*.json"};
  options.exclude = {"parts/"};
  EXPECT_EQ(bumblebee::pull("org/name", options).files, 3);
  expect_sound();
  expect_absent(commit_, kWeights);
  EXPECT_TRUE(mock().requests("cdn", "GET", commit_[kWeights].etag).empty());
  bumblebee::pull("org/name");
  expect_complete(commit_);
}

TEST_F(Api, Subfolders) {
  PullOptions options;
  options.hub.subdir = "parts/deep";
  const PullResult result = bumblebee::pull("org/name", options);
  EXPECT_EQ(result.directory, snapshot(commit_) / "parts/deep");
  EXPECT_EQ(result.files, 1);
  expect_sound();
  options.hub.subdir = "none";
  EXPECT_EQ(pull_code("org/name", options), ErrorCode::not_found);
  options.hub.subdir = "../up";
  EXPECT_EQ(pull_code("org/name", options), ErrorCode::bad_request);
}

TEST_F(Api, Codes) {
  mock().command({{"op", "token"}, {"token", "hf_good"}});
  ::setenv("HF_TOKEN", "hf_good", 1);
  EXPECT_EQ(pull_code("org/none"), ErrorCode::not_found);
  PullOptions options;
  options.hub.revision = "v9";
  EXPECT_EQ(pull_code("org/name", options), ErrorCode::not_found);
  mock().repository("org/name", {{"gated", true}, {"accepted", false}});
  EXPECT_EQ(pull_code("org/name"), ErrorCode::forbidden);
  ::setenv("HF_TOKEN", "hf_bad", 1);
  EXPECT_EQ(pull_code("org/name"), ErrorCode::forbidden);
  ::unsetenv("HF_TOKEN");
  EXPECT_EQ(pull_code("org/name"), ErrorCode::forbidden);
  mock().repository("org/name", {{"gated", false}});
  mock().fault({{"status", 503}});
  EXPECT_EQ(pull_code("org/name"), ErrorCode::network);
  ::setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
  EXPECT_EQ(pull_code("org/name"), ErrorCode::network);
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_EQ(pull_code("org/name"), ErrorCode::bad_file);
  for (const char* id : {"", "name", "../x", "a/b/c", "org/na me"})
    EXPECT_EQ(pull_code(id), ErrorCode::bad_request) << id;
  options.hub.revision = "../main";
  EXPECT_EQ(pull_code("org/name", options), ErrorCode::bad_request);
}

TEST_F(Api, ADirectoryIsDownloadedWhenItIsUsed) {
  EXPECT_EQ(hf("org/name").directory(), snapshot(commit_));
  expect_complete(commit_);
  mock().command({{"op", "clear"}});
  EXPECT_EQ(hf("org/name").directory(), snapshot(commit_));
  EXPECT_EQ(repository("org/name@main").directory(), snapshot(commit_));
  EXPECT_EQ(repository("org/name/parts/deep").directory(), snapshot(commit_) / "parts/deep");
  EXPECT_TRUE(mock().requests().empty()) << "what is whole is used without asking";
  HubOptions offline;
  offline.access = HubAccess::offline;
  offline.revision = "v9";
  EXPECT_THROW(hf("org/name", offline).directory(), Error);
  EXPECT_TRUE(mock().requests().empty());
}

TEST_F(Api, ThreadsAtOnce) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back([&] { good += bumblebee::pull("org/name").commit == commit_.sha; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 6);
  expect_sound();
  expect_complete(commit_);
  uint64_t sent = 0;
  for (const Request& request : mock().requests("cdn", "GET", commit_[kWeights].etag)) sent += request.sent;
  EXPECT_EQ(sent, commit_[kWeights].size);
}

TEST_F(Api, NoMoreFilesAtATimeThanAsked) {
  Files files;
  for (int i = 0; i < 12; ++i)
    files["model-" + std::to_string(10 + i) + ".safetensors"] = noise(20'000, uint32_t(i + 1));
  const Commit commit = publish(files, "org/parts");
  mock().fault({{"where", "cdn"}, {"rate", 200'000}});
  PullOptions options;
  options.workers = 2;
  size_t most = 0;
  options.hub.progress = [&](const HubProgress& progress) {
    most = std::max(most, progress.active.size());
    return true;
  };
  bumblebee::pull("org/parts", options);
  expect_complete(commit);
  EXPECT_EQ(most, 2u);
}

TEST_F(Api, AFullDiskIsToldBeforeAnythingIsFetched) {
  hub::Settings settings = hub::settings_from_environment();
  settings.free_bytes_at_most = 100'000;
  hub::Download what;
  what.id = "org/name";
  EXPECT_EQ(code_of([&] { hub::download(settings, what); }), ErrorCode::bad_file);
  EXPECT_TRUE(mock().requests("", "", "/resolve/").empty());
  settings.free_bytes_at_most = 10'000'000'000;
  hub::download(settings, what);
  expect_complete(commit_);
}

TEST_F(Api, LooksAfterTheCache) {
  bumblebee::pull("org/name");
  EXPECT_EQ(hub_cache(), cache_);
  const CacheListing list = bumblebee::list_cache();
  ASSERT_EQ(list.repositories.size(), 1u);
  EXPECT_EQ(list.repositories[0].id, "org/name");
  EXPECT_EQ(list.repositories[0].revisions.at(0).commit, commit_.sha);
  EXPECT_EQ(list.repositories[0].revisions.at(0).refs, std::vector<std::string>{"main"});
  const CacheVerification good = bumblebee::verify_cached("org/name");
  EXPECT_EQ(good.files, int(commit_.files.size()));
  EXPECT_TRUE(good.broken.empty());
  EXPECT_TRUE(bumblebee::prune_cache(CacheAct::remove).removed.empty());
  EXPECT_EQ(bumblebee::remove_cached({"org/name"}, CacheAct::remove).bytes, list.bytes);
  EXPECT_FALSE(fs::exists(folder()));
}

}  // namespace
}  // namespace bumblebee::hub_test
