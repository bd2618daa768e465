// The cache: what is used again, what happens when it cannot be written, and without the Hub.
#include <sys/stat.h>
#include <unistd.h>

#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

const Environment kOffline = {{"HF_HUB_OFFLINE", "1"}};

class Cache : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model());
  }
  Commit commit_;
};

TEST_F(Cache, ASecondRunFetchesNothing) {
  pull();
  mock().command({{"op", "clear"}});
  pull();
  expect_complete(commit_);
  EXPECT_TRUE(mock().requests("cdn").empty());
  EXPECT_TRUE(mock().requests("hub", "GET", "/resolve").empty());
}

TEST_F(Cache, ANewCommitFetchesWhatChanged) {
  pull();
  Files files = small_model();
  files["config.json"] = "{\"model_type\": \"qwen3\"}";
  const Commit next = publish(files);
  mock().command({{"op", "clear"}});
  pull();
  expect_complete(next);
  expect_complete(commit_);
  EXPECT_TRUE(mock().requests("cdn").empty());
  EXPECT_EQ(mock().requests("hub", "GET", "/org/name/resolve/").size(), 1u);
}

TEST_F(Cache, Revisions) {
  const Commit tagged = publish(small_model(1000, 3), "org/name", {{"tag", "v1.0"}});
  const Commit branch = publish(small_model(1000, 4), "org/name", {{"branch", "feature/x"}});
  const Commit request = publish(small_model(1000, 5), "org/name", {{"pull", "12"}});
  const std::pair<std::string, const Commit*> all[] = {
      {"v1.0", &tagged}, {"feature/x", &branch}, {"refs/pr/12", &request}, {tagged.sha, &tagged}, {"main", &commit_}};
  for (const auto& [revision, commit] : all) {
    SCOPED_TRACE(revision);
    pull("org/name@" + revision);
    expect_complete(*commit);
    if (revision == commit->sha) continue;
    EXPECT_EQ(read_file(folder() / "refs" / revision), commit->sha);
  }
  for (const Request& one : mock().requests("hub", "GET", "refs/pr/12"))
    EXPECT_NE(one.target.find("refs%2Fpr%2F12"), std::string::npos) << one.target;
}

TEST_F(Cache, ABranchThatIsAFolderOfAnother) {
  publish(small_model(1000, 4), "org/name", {{"branch", "main/sub"}});
  pull();
  const Outcome got = run({"pull", "org/name@main/sub"});  // refs/main is a file: Python fails here as well
  expect_sound();
  if (got.status != 0) expect_error(got, {"refs/main"});
  EXPECT_EQ(read_file(folder() / "refs" / "main"), commit_.sha);
}

TEST_F(Cache, WithoutLinksFilesLieInTheSnapshot) {
  pull("org/name", {{"HF_HUB_DISABLE_SYMLINKS", "1"}});
  expect_complete(commit_);
  for (const auto& [path, file] : commit_.files) EXPECT_FALSE(fs::is_symlink(snapshot(commit_) / path)) << path;
  EXPECT_FALSE(fs::exists(blob(commit_, kWeights))) << "moved, not copied";
  mock().command({{"op", "clear"}});
  pull("org/name", {{"HF_HUB_DISABLE_SYMLINKS", "1"}});
  EXPECT_TRUE(mock().requests("cdn").empty()) << "what lies there is used again";
}

TEST_F(Cache, AFileSystemWithoutLinks) {
  pull("org/name", broken_disk("nolinks"));
  expect_complete(commit_);
  EXPECT_FALSE(fs::is_symlink(snapshot(commit_) / kWeights));
  Environment offline = broken_disk("nolinks");
  offline["HF_HUB_OFFLINE"] = "1";
  pull("org/name", offline);
}

TEST_F(Cache, OneContentUnderTwoNamesWithoutLinks) {
  const std::string same = noise(50'000, 77);
  const Commit commit = publish({{"config.json", "{}"}, {"a.safetensors", same}, {"b.safetensors", same}}, "org/same");
  pull("org/same", {{"HF_HUB_DISABLE_SYMLINKS", "1"}});
  expect_complete(commit);
}

TEST_F(Cache, ReadOnlyAndWhole) {
  pull();
  pull("org/name", broken_disk("readonly"));
  expect_complete(commit_);
}

TEST_F(Cache, ReadOnlyAndNotWhole) {
  pull();
  fs::remove(snapshot(commit_) / kWeights);
  fs::remove(blob(commit_, kWeights));
  expect_error(pull_fails("org/name", broken_disk("readonly")), {"read-only"});
}

TEST_F(Cache, ReadOnlyAndEmpty) {
  fs::create_directories(cache_);
  expect_error(pull_fails("org/name", broken_disk("readonly")), {"read-only", cache_.string()});
}

TEST_F(Cache, PlacesThatAreNoCache) {
  write_file(root_ / "test-file", "a file, not a folder");
  expect_error(pull_fails("org/name", {{"HF_HUB_CACHE", (root_ / "test-file").string()}}), {"test-file"});
  expect_error(pull_fails("org/name", {{"HF_HUB_CACHE", "/proc/nowhere"}}), {"/proc/nowhere"});
}

TEST_F(Cache, OfflineAndWhole) {
  pull();
  mock().command({{"op", "clear"}});
  pull("org/name", kOffline);
  EXPECT_TRUE(mock().requests().empty());
}

TEST_F(Cache, OfflineAndHalf) {
  pull();
  fs::remove(snapshot(commit_) / kWeights);
  fs::remove(blob(commit_, kWeights));
  mock().command({{"op", "clear"}});
  expect_error(pull_fails("org/name", kOffline), {"offline", kWeights});
  EXPECT_TRUE(mock().requests().empty());
  pull();
  expect_complete(commit_);
}

TEST_F(Cache, OfflineAndADanglingLink) {
  pull();
  fs::remove(blob(commit_, kWeights));
  const Outcome got = run({"pull", "org/name"}, kOffline);
  expect_error(got, {"offline", kWeights});
  pull();
  expect_complete(commit_);
}

TEST_F(Cache, OfflineAndInterrupted) {
  mock().fault({{"where", "cdn"}, {"status", 404}});
  pull_fails();
  mock().command({{"op", "clear"}});
  expect_error(pull_fails("org/name", kOffline), {"offline"});
}

TEST_F(Cache, OfflineAndAbsent) {
  expect_error(pull_fails("org/name", kOffline), {"offline", "org/name"});
  expect_error(pull_fails("org/name@v7", kOffline), {"offline"});
  EXPECT_TRUE(mock().requests().empty());
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(Cache, TheHubIsDownAndTheCacheWhole) {
  pull();
  const Outcome got = run({"pull", "org/name"}, {{"HF_ENDPOINT", "http://127.0.0.1:1"}});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.err.find("cache"), std::string::npos) << "said, as the files may be old: " << got.err;
  for (int status : {500, 503, 504, 401}) {
    SCOPED_TRACE(status);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"}, {"status", status}});
    EXPECT_EQ(run({"pull", "org/name"}).status, 0);
  }
}

TEST_F(Cache, ARevisionThatIsGoneDoesNotFallBack) {
  pull();
  mock().fault({{"where", "hub"}, {"path", "*/revision/*"}, {"status", 404}, {"error_code", "RevisionNotFound"}});
  expect_error(pull_fails(), {"main"});
}

TEST_F(Cache, TheHubIsDownAndTheCacheHalf) {
  pull();
  fs::remove(snapshot(commit_) / kWeights);
  fs::remove(blob(commit_, kWeights));
  expect_error(pull_fails("org/name", {{"HF_ENDPOINT", "http://127.0.0.1:1"}}), {"org/name"});
}

TEST_F(Cache, ABlobThatIsTooShortIsFetchedAgain) {
  pull();
  fs::resize_file(blob(commit_, kWeights), 1000);
  const Outcome got = run({"pull", "org/name"});
  EXPECT_EQ(got.status, 0) << got.err;
  expect_sound();
  expect_complete(commit_);
}

TEST_F(Cache, SnapshotsThatHoldOtherThings) {
  // A folder where the link should be, and a link that leads out: neither is followed or replaced in silence.
  fs::create_directories(snapshot(commit_) / "config.json" / "x");
  const Outcome got = run({"pull", "org/name"});
  if (got.status != 0) expect_error(got, {"config.json"});
  fs::remove_all(cache_);
  write_file(root_ / "test-outside", "outside");
  fs::create_directories(snapshot(commit_));
  fs::create_symlink(root_ / "test-outside", snapshot(commit_) / "config.json");
  pull();
  expect_complete(commit_);
  EXPECT_EQ(read_file(root_ / "test-outside"), "outside");
}

TEST_F(Cache, RefsThatHoldNoCommit) {
  for (const char* text : {"", "main", "../../../../evil", "0123456789abcdef0123456789abcdef0123456g"}) {
    SCOPED_TRACE(text);
    write_file(folder() / "refs" / "main", text);
    expect_error(run({"pull", "org/name"}, kOffline), {"refs/main"});
    pull();
    expect_complete(commit_);
  }
}

TEST_F(Cache, KeptListsThatAreBroken) {
  pull();
  const fs::path tree = folder() / "trees" / (commit_.sha + ".json");
  ASSERT_TRUE(fs::exists(tree));
  for (const char* text : {"", "{", "{\"format_version\": 2, \"files\": {}}",
                           "{\"format_version\": 1, \"files\": {\"../x\": {\"size\": 1, \"blob_id\": \"a\"}}}",
                           "{\"format_version\": 1, \"files\": []}"}) {
    SCOPED_TRACE(text);
    write_file(tree, text);
    pull();
    expect_complete(commit_);
  }
}

TEST_F(Cache, ModesFollowTheUmask) {
  const mode_t old = ::umask(022);
  pull();
  ::umask(old);
  struct stat info {};
  ASSERT_EQ(::stat(blob(commit_, kWeights).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u) << "others on the machine may read it, as with Python";
}

}  // namespace
}  // namespace bumblebee::hub_test
