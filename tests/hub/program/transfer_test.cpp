// Bodies that arrive broken: every run ends with verified files or a named error, and no wrong byte gets a good name.
#include <algorithm>

#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

constexpr size_t kSize = 300'000;

class Transfer : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model(kSize));
  }
  /// A rule for the bodies of the weights.
  void weights(nlohmann::json rule) {
    rule["where"] = "cdn";
    rule["method"] = "GET";
    rule["path"] = "*/" + commit_[kWeights].etag;
    mock().fault(rule);
  }
  std::vector<Request> bodies() const { return mock().requests("cdn", "GET", commit_[kWeights].etag); }
  void succeeds(const Environment& more = {}) {
    pull("org/name", more);
    expect_complete(commit_);
  }
  /// The run fails and leaves the weights without a name; the next, undisturbed one ends well.
  Outcome fails_then_recovers(const std::vector<std::string>& words, const Environment& more = {}) {
    Outcome got = pull_fails("org/name", more);
    expect_error(got, words);
    expect_absent(commit_, kWeights);
    mock().command({{"op", "clear"}});
    succeeds();
    return got;
  }
  /// Leaves `bytes` of the weights in the cache, by a run that ends when its continuation is refused.
  void interrupted_at(size_t bytes) {
    weights({{"status", 404}, {"skip", 1}});
    weights({{"truncate_at", bytes}, {"times", 1}});
    pull_fails();
    expect_absent(commit_, kWeights);
    mock().command({{"op", "clear"}});
    EXPECT_EQ(partials().size(), 1u);
  }
  std::vector<fs::path> partials() const {
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator(folder() / "blobs"))
      if (entry.path().extension() == ".incomplete") out.push_back(entry.path());
    return out;
  }
  Commit commit_;
};

TEST_F(Transfer, TheCacheIsWhatPythonMakes) {
  succeeds();
  EXPECT_EQ(read_file(folder() / "refs" / "main"), commit_.sha) << "no newline";
  EXPECT_TRUE(read_file(cache_ / "CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
  EXPECT_EQ(fs::read_symlink(snapshot(commit_) / kWeights), fs::path("../../blobs") / commit_[kWeights].etag);
  EXPECT_EQ(fs::read_symlink(snapshot(commit_) / "parts/deep/notes.json"),
            fs::path("../../../../blobs") / commit_["parts/deep/notes.json"].etag);
  EXPECT_TRUE(partials().empty());
  EXPECT_EQ(bodies().size(), 1u);
}

TEST_F(Transfer, ContinuesWhereItBrokeOff) {
  weights({{"truncate_at", 100'000}, {"times", 1}});
  succeeds();
  ASSERT_EQ(bodies().size(), 2u);
  EXPECT_EQ(bodies()[1].headers.at("range"), "bytes=100000-");
  EXPECT_EQ(bodies()[1].status, 206);
}

TEST_F(Transfer, TruncatedAt25RandomOffsets) {
  Files files = {{"config.json", "{}"}};
  for (int i = 0; i < 25; ++i)
    files["model-" + std::to_string(10 + i) + ".safetensors"] = noise(kSize, uint32_t(100 + i));
  const Commit commit = publish(files, "org/cut");
  uint64_t random = 12345;
  for (const auto& [path, file] : commit.files) {
    if (!file.lfs) continue;
    random = random * 6364136223846793005u + 1442695040888963407u;
    const size_t offset = path.ends_with("10.safetensors")   ? 0
                          : path.ends_with("11.safetensors") ? 1
                          : path.ends_with("12.safetensors") ? kSize - 1
                                                             : size_t(random >> 33) % kSize;
    mock().fault({{"where", "cdn"}, {"path", "*/" + file.etag}, {"truncate_at", offset}, {"times", 1}});
  }
  pull("org/cut");
  expect_complete(commit);
  EXPECT_GE(mock().requests("cdn", "GET").size(), 50u) << "each was cut once";
}

TEST_F(Transfer, TruncatedAgainAndAgainButAdvancing) {
  weights({{"truncate_at", kSize / 8}});
  succeeds();
  EXPECT_GE(bodies().size(), 8u) << "progress renews the tries";
}

TEST_F(Transfer, TruncatedWithoutProgressIsAnError) {
  weights({{"truncate_at", 0}});
  fails_then_recovers({"org/name"});
}

TEST_F(Transfer, TwoHundredForARange) {
  weights({{"truncate_at", 100'000}, {"times", 1}});
  weights({{"ignore_range", true}, {"ranged", true}});
  succeeds();
  EXPECT_EQ(bodies().back().status, 200);
}

TEST_F(Transfer, APartOfAnotherOffset) {
  for (int shift : {-1, 1, -100'000, 4096}) {
    SCOPED_TRACE(shift);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    weights({{"truncate_at", 100'000}, {"times", 1}});
    weights({{"range_shift", shift}, {"ranged", true}, {"times", 1}});
    succeeds();
  }
}

TEST_F(Transfer, APartAlwaysOfAnotherOffsetIsAnErrorOrStartsAnew) {
  weights({{"truncate_at", 100'000}, {"times", 1}});
  weights({{"range_shift", 7}, {"ranged", true}});
  const Outcome got = run({"pull", "org/name"});
  expect_complete_or_error(got, commit_);
}

TEST_F(Transfer, WrongContentRanges) {
  for (const char* text :
       {"bytes 0-299999/300000", "bytes 100000-299999/299999", "bytes 100000-200000/300000", "bytes */300000", "bytes",
        "", "items 1-2/3", "bytes 99999999999999999999-1/2", "bytes 100000-299999/*"}) {
    SCOPED_TRACE(text);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    weights({{"truncate_at", 100'000}, {"times", 1}});
    weights({{"content_range", text}, {"ranged", true}, {"times", 1}});
    const Outcome got = run({"pull", "org/name"});
    expect_sound();
    if (got.status != 0) {
      expect_error(got, {"org/name"});
      expect_absent(commit_, kWeights);
      mock().command({{"op", "clear"}});
    }
    succeeds();
  }
}

TEST_F(Transfer, APartWithoutContentRange) {
  weights({{"truncate_at", 100'000}, {"times", 1}});
  weights({{"unset", {"Content-Range"}}, {"ranged", true}, {"times", 1}});
  succeeds();
}

TEST_F(Transfer, APartWhoseHeaderHidesTheWrongOffset) {
  weights({{"truncate_at", 100'000}, {"times", 1}});
  weights({{"data_shift", 64}, {"ranged", true}, {"times", 1}});
  const Outcome got = run({"pull", "org/name"});
  expect_sound();
  if (got.status != 0) {
    expect_error(got, {"org/name"});
    expect_absent(commit_, kWeights);
  }
  succeeds();
}

TEST_F(Transfer, AFlippedByte) {
  for (size_t offset : {size_t{0}, kSize / 2, kSize - 1}) {
    SCOPED_TRACE(offset);
    fs::remove_all(cache_);
    weights({{"flip", offset}});
    fails_then_recovers({kWeights, "sha256", "nothing was kept"});
    EXPECT_TRUE(partials().empty());
  }
}

TEST_F(Transfer, AFlippedByteOfAFileOfGit) {
  mock().fault({{"where", "hub"}, {"method", "GET"}, {"path", "/api/resolve-cache/*/config.json"}, {"flip", 3}});
  expect_error(pull_fails(), {"config.json", "git blob"});
  expect_absent(commit_, "config.json");
  mock().command({{"op", "clear"}});
  succeeds();
}

TEST_F(Transfer, AFlippedByteBeforeTheBreakIsFoundAfterIt) {
  weights({{"truncate_at", 100'000}, {"flip", 50'000}, {"times", 1}});
  const Outcome got = run({"pull", "org/name"});
  expect_sound();
  if (got.status != 0) expect_absent(commit_, kWeights);
  succeeds();
}

TEST_F(Transfer, ConnectionsThatAreReset) {
  weights({{"reset_at", 150'000}, {"times", 1}});
  weights({{"drop", "reset"}, {"skip", 1}, {"times", 1}});
  weights({{"drop", true}, {"skip", 2}, {"times", 1}});
  succeeds();
}

TEST_F(Transfer, ABodyThatStalls) {
  weights({{"stall_at", 100'000}, {"times", 1}});
  succeeds({{"HF_HUB_DOWNLOAD_TIMEOUT", "0.5"}});
  EXPECT_EQ(bodies().back().headers.at("range"), "bytes=100000-");
}

TEST_F(Transfer, AnAnswerThatDoesNotCome) {
  weights({{"delay", 60}, {"times", 1}});
  succeeds({{"HF_HUB_DOWNLOAD_TIMEOUT", "0.5"}});
}

TEST_F(Transfer, SlowIsNotStalled) {
  weights({{"rate", 200'000}});
  succeeds({{"HF_HUB_DOWNLOAD_TIMEOUT", "0.5"}});
  EXPECT_EQ(bodies().size(), 1u) << "1.5 seconds in all, never half a one without a byte";
}

TEST_F(Transfer, MoreBytesThanTheFileHas) {
  weights({{"append", "and more"}});
  const Outcome got = run({"pull", "org/name"});
  expect_complete_or_error(got, commit_);
  if (got.status != 0) expect_absent(commit_, kWeights);
}

TEST_F(Transfer, ContentLengthsThatLie) {
  for (size_t length : {size_t{0}, kSize - 1, kSize + 1, size_t{1} << 62}) {
    SCOPED_TRACE(length);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    weights({{"length", length}, {"truncate_at", kSize}, {"times", 1}});
    const Outcome got = run({"pull", "org/name"});
    expect_sound();
    if (got.status != 0) {
      expect_error(got, {"org/name"});
      expect_absent(commit_, kWeights);
    }
    mock().command({{"op", "clear"}});
    succeeds();
  }
}

TEST_F(Transfer, ABodyWithoutLength) {
  weights({{"no_length", true}});
  succeeds();
}

TEST_F(Transfer, ABodyWithoutLengthThatIsCut) {
  weights({{"no_length", true}, {"truncate_at", 200'000}, {"times", 1}});
  succeeds();
}

TEST_F(Transfer, CompressedText) {
  mock().repository("org/name", {{"gzip", true}});
  succeeds();
  for (const Request& request : mock().requests("hub", "GET", "/resolve"))
    EXPECT_TRUE(!request.has("accept-encoding") || request.headers.at("accept-encoding") == "identity");
}

TEST_F(Transfer, ResumesAcrossRuns) {
  interrupted_at(200'000);
  succeeds();
  ASSERT_EQ(bodies().size(), 1u);
  EXPECT_EQ(bodies()[0].headers.at("range"), "bytes=200000-");
  EXPECT_EQ(bodies()[0].sent, kSize - 200'000);
  EXPECT_TRUE(partials().empty());
}

TEST_F(Transfer, APartialThatIsTooLong) {
  interrupted_at(200'000);
  ASSERT_EQ(partials().size(), 1u);
  write_file(partials()[0], noise(kSize + 1, 9));
  succeeds();
  EXPECT_TRUE(partials().empty());
}

TEST_F(Transfer, APartialOfOtherBytes) {
  interrupted_at(200'000);
  ASSERT_EQ(partials().size(), 1u);
  write_file(partials()[0], noise(200'000, 9));
  const Outcome got = run({"pull", "org/name"});
  expect_sound();
  if (got.status != 0) expect_absent(commit_, kWeights);
  succeeds();
}

TEST_F(Transfer, APartialThatIsWholeNeedsNoBody) {
  interrupted_at(200'000);
  ASSERT_EQ(partials().size(), 1u);
  write_file(partials()[0], noise(kSize, 1));
  succeeds();
  for (const Request& request : bodies()) EXPECT_EQ(request.sent, 0u);
}

TEST_F(Transfer, FilesOfEverySize) {
  Files files = {{"config.json", "{}"}};
  for (size_t size : {0, 1, 2, 1023, 1024, 16383, 16384, 16385, 65535, 65536, 65537, 262144, 1048577})
    files["size-" + std::to_string(size) + ".safetensors"] = noise(size, uint32_t(size + 1));
  const Commit commit = publish(files, "org/sizes");
  pull("org/sizes");
  expect_complete(commit);
}

TEST_F(Transfer, NamesThatNeedEscaping) {
  Files files = {{"config.json", "{}"},
                 {"with space.json", "{\"a\": 1}"},
                 {"per%cent.json", "{\"a\": 2}"},
                 {"hash#mark.json", "{\"a\": 3}"},
                 {"quest?ion.json", "{\"a\": 4}"},
                 {"pl+us&.safetensors", noise(5000, 3)},
                 {"uml\xC3\xA4ut.json", "{\"a\": 5}"}};
  const Commit commit = publish(files, "org/names");
  pull("org/names");
  expect_complete(commit);
}

}  // namespace
}  // namespace bumblebee::hub_test
