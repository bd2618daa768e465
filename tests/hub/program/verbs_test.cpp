// The verbs `pull` and `cache`, and names of the Hub where other verbs take a model or an adapter.
#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

class Verbs : public HubTest {
 protected:
  nlohmann::json json(std::vector<std::string> arguments, const Environment& more = {}, int status = 0) const {
    arguments.emplace_back("--json");
    const Outcome got = run(std::move(arguments), more);
    EXPECT_EQ(got.status, status) << got.err;
    nlohmann::json value = nlohmann::json::parse(got.out, nullptr, false);
    EXPECT_FALSE(value.is_discarded()) << got.out;
    return value;
  }
  /// The tiny model of the program's tests, with weights, tokenizer and template.
  Commit publish_tiny(const std::string& repository = "org/tiny", const std::string& folder = "") {
    Files files;
    for (const auto& entry : fs::directory_iterator(BB_TEST_DATA "/apps/tiny"))
      files[folder + entry.path().filename().string()] = read_file(entry.path());
    return publish(files, repository);
  }
};

TEST_F(Verbs, PullPrintsTheDirectory) {
  const Commit commit = publish(small_model());
  EXPECT_EQ(pull().out, snapshot(commit).string() + "\n");
  EXPECT_EQ(pull("org/name/parts@main").out, (snapshot(commit) / "parts").string() + "\n");
  EXPECT_EQ(run({"pull", "-m", "org/name", "--revision", commit.sha}).out, snapshot(commit).string() + "\n");
}

TEST_F(Verbs, PullAsJson) {
  const Commit commit = publish(small_model());
  const nlohmann::json first = json({"pull", "org/name"});
  EXPECT_EQ(first.at("repository"), "org/name");
  EXPECT_EQ(first.at("directory"), snapshot(commit).string());
  EXPECT_EQ(first.at("commit"), commit.sha);
  EXPECT_EQ(first.at("files"), commit.files.size());
  EXPECT_EQ(first.at("fetched_files"), commit.files.size());
  EXPECT_EQ(first.at("bytes"), first.at("fetched_bytes"));
  EXPECT_TRUE(first.at("stale").is_null());
  EXPECT_EQ(json({"pull", "org/name"}).at("fetched_bytes"), 0);
  EXPECT_TRUE(json({"pull", "org/name"}, {{"HF_HUB_OFFLINE", "1"}}).at("stale").is_string());
  const nlohmann::json refused = json({"pull", "org/name@v9"}, {}, 9);
  EXPECT_EQ(refused.at("error").at("code"), "not_found");
}

TEST_F(Verbs, PullTakesPatterns) {
  Files files = small_model();
  files["model.gguf"] = noise(1000, 9);
  files["image.png"] = noise(1000, 10);
  const Commit commit = publish(files);
  pull();
  expect_absent(commit, "model.gguf");
  EXPECT_EQ(run({"pull", "org/name", "--include", "*.gguf", "--include", "*.png", "--exclude", "image*"}).status, 0);
  expect_complete(commit, {"model.gguf"});
  expect_absent(commit, "image.png");
  const Outcome none = run({"pull", "org/name", "--include", "*.nothing"});
  expect_error(none, {"org/name"}, 9);
  EXPECT_EQ(run({"pull", "org/name", "-j", "1"}).status, 0);
}

TEST_F(Verbs, PullRefusesWhatIsNoName) {
  for (const char* source :
       {"name", "a/../b", "org/name@", "org/na me", "org/name@../x", "/org/name", "org/name/../x", "org/name/a//b"}) {
    SCOPED_TRACE(source);
    const Outcome got = run({"pull", source});
    expect_error(got, {});
    EXPECT_TRUE(got.status == 2 || got.status == 8) << got.status;
  }
  EXPECT_EQ(run({"pull"}).status, 2);
  EXPECT_EQ(run({"pull", "org/name", "-m", "org/name"}).status, 2);
  EXPECT_EQ(run({"pull", "org/name", "-j", "0"}).status, 2);
  EXPECT_TRUE(mock().requests().empty());
}

TEST_F(Verbs, ExitCodesSayWhatKind) {
  publish(small_model());
  EXPECT_EQ(run({"pull", "org/none"}, {{"HF_TOKEN", "hf_x"}}).status, 9);
  mock().repository("org/name", {{"gated", true}});
  EXPECT_EQ(run({"pull", "org/name"}).status, 10);
  EXPECT_EQ(run({"pull", "org/name"}, {{"HF_ENDPOINT", "http://127.0.0.1:1"}}).status, 11);
  EXPECT_EQ(run({"pull", "org/name"}, {{"HF_HUB_OFFLINE", "1"}}).status, 3);
}

TEST_F(Verbs, AModelIsDownloadedWhenItIsNamed) {
  publish_tiny();
  const std::string local = BB_TEST_DATA "/apps/tiny";
  const std::vector<std::string> rest = {"-p", "Hi", "-n", "8", "--greedy", "--raw"};
  const auto generate = [&](const std::string& model, const Environment& more = {}) {
    std::vector<std::string> words = {"generate", "-m", model};
    words.insert(words.end(), rest.begin(), rest.end());
    const Outcome got = run(words, more);
    EXPECT_EQ(got.status, 0) << got.err;
    return got.out;
  };
  const std::string expected = generate(local);
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(generate("org/tiny"), expected);
  expect_sound();
  mock().command({{"op", "clear"}});
  EXPECT_EQ(generate("org/tiny@main"), expected);
  EXPECT_TRUE(mock().requests().empty()) << "what is whole is used without asking";
  EXPECT_EQ(generate("org/tiny", {{"HF_HUB_OFFLINE", "1"}}), expected);
}

TEST_F(Verbs, OtherVerbsTakeNamesToo) {
  const Commit commit = publish_tiny();
  publish_tiny("org/nested", "folder/");
  EXPECT_EQ(json({"info", "org/tiny"}).at("architecture"), "llama");
  EXPECT_EQ(json({"info", "org/nested/folder"}).at("architecture"), "llama");
  EXPECT_EQ(run({"tokenize", "-m", "org/tiny@" + commit.sha, "Hi"}).out, "72 105\n");
  expect_error(run({"info", "org/none"}, {{"HF_TOKEN", "hf_x"}}), {"org/none"}, 9);
  expect_error(run({"info", "org/none"}, {{"HF_HUB_OFFLINE", "1"}}), {"org/none", "HF_HUB_OFFLINE"}, 3);
  expect_sound();
}

/// A cache in which another tool left the tokenizer and the config only.
TEST_F(Verbs, ACacheThatLacksWeightsIsCompleted) {
  const Commit commit = publish_tiny();
  const auto leave = [&](const std::vector<std::string>& names) {
    fs::remove_all(cache_);
    for (const std::string& name : names)
      write_file(snapshot(commit) / name, read_file(BB_TEST_DATA "/apps/tiny/" + name));
    write_file(folder("org/tiny") / "refs/main", commit.sha);
  };
  const std::vector<std::string> generate = {"generate", "-m", "org/tiny", "-p", "Hi", "-n", "4", "--greedy", "--raw"};
  const std::string expected =
      run({"generate", "-m", BB_TEST_DATA "/apps/tiny", "-p", "Hi", "-n", "4", "--greedy", "--raw"}).out;
  leave({"config.json", "tokenizer.json", "tokenizer_config.json"});
  EXPECT_EQ(run({"tokenize", "-m", "org/tiny", "Hi"}, {{"HF_HUB_OFFLINE", "1"}}).out, "72 105\n") << "needs no weights";
  expect_error(run(generate, {{"HF_HUB_OFFLINE", "1"}}),
               {"org/tiny", "the cache lacks the weights", "bumblebee pull org/tiny"}, 3);
  EXPECT_EQ(run(generate).out, expected);
  leave({"config.json", "model.safetensors"});
  expect_error(run(generate, {{"HF_HUB_OFFLINE", "1"}}), {"tokenizer.json"}, 3);
  EXPECT_EQ(run(generate).out, expected) << "the tokenizer was missing";
  // The folder that people see in the cache, and the address in their browser.
  for (const std::string& source : {folder("org/tiny").string(), snapshot(commit).string(), mock().hub + "/org/tiny",
                                    mock().hub + "/org/tiny/tree/main", std::string("hf://org/tiny")}) {
    SCOPED_TRACE(source);
    leave({"config.json"});
    EXPECT_EQ(run({"generate", "-m", source, "-p", "Hi", "-n", "4", "--greedy", "--raw"}).out, expected);
  }
  EXPECT_EQ(run({"pull", mock().hub + "/org/tiny"}).out, snapshot(commit).string() + "\n");
}

TEST_F(Verbs, ABrokenDownloadIsNoModel) {
  const Commit commit = publish_tiny();
  mock().fault({{"where", "cdn"}, {"flip", 1000}});
  expect_error(run({"info", "org/tiny"}), {"org/tiny", "sha256"}, 3);
  expect_sound();
  mock().command({{"op", "clear"}});
  EXPECT_EQ(run({"info", "org/tiny"}).status, 0);
  expect_complete(commit);
}

TEST_F(Verbs, CacheLs) {
  EXPECT_EQ(json({"cache", "ls"}).at("repositories"), nlohmann::json::array());
  const Commit commit = publish(small_model());
  pull();
  const nlohmann::json list = json({"cache", "ls"});
  ASSERT_EQ(list.at("repositories").size(), 1u);
  const nlohmann::json one = list["repositories"][0];
  EXPECT_EQ(one.at("id"), "org/name");
  EXPECT_EQ(one.at("type"), "model");
  EXPECT_EQ(one.at("revisions").at(0).at("commit"), commit.sha);
  EXPECT_EQ(one.at("revisions").at(0).at("refs"), nlohmann::json({"main"}));
  EXPECT_EQ(list.at("warnings"), nlohmann::json::array());
  const Outcome text = run({"cache", "ls", "--revisions"});
  EXPECT_NE(text.out.find("org/name"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find(commit.sha), std::string::npos) << text.out;
}

TEST_F(Verbs, CacheRm) {
  const Commit first = publish(small_model(100'000, 1));
  const Commit second = publish(small_model(100'000, 2), "org/name", {{"branch", "next"}});
  pull();
  pull("org/name@next");
  const Outcome told = run({"cache", "rm", "org/name@next", "--dry-run"});
  EXPECT_EQ(told.status, 0) << told.err;
  expect_complete(second);
  EXPECT_EQ(run({"cache", "rm", "org/name@next"}).status, 0);
  EXPECT_FALSE(fs::exists(snapshot(second)));
  EXPECT_FALSE(fs::exists(blob(second, kWeights)));
  expect_complete(first);
  expect_sound();
  expect_error(run({"cache", "rm", "org/name", "org/none"}), {"org/none"}, 9);
  expect_complete(first);
  EXPECT_EQ(run({"cache", "rm", "org/name"}).status, 0);
  EXPECT_FALSE(fs::exists(folder()));
  EXPECT_EQ(run({"cache", "rm"}).status, 2);
}

TEST_F(Verbs, CachePrune) {
  const Commit first = publish(small_model(100'000, 1));
  pull();
  const Commit second = publish(small_model(100'000, 2));
  pull();
  mock().fault({{"where", "cdn"}, {"truncate_at", 1000}, {"times", 1}});
  mock().fault({{"where", "cdn"}, {"status", 404}, {"skip", 1}});
  publish(small_model(100'000, 3), "org/name", {{"branch", "third"}});
  run({"pull", "org/name@third"});
  EXPECT_GT(json({"cache", "ls"}).at("repositories").at(0).at("partial_bytes").get<int64_t>(), 0);
  EXPECT_EQ(run({"cache", "prune", "--dry-run"}).status, 0);
  expect_complete(first);
  EXPECT_EQ(run({"cache", "prune"}).status, 0);
  EXPECT_FALSE(fs::exists(snapshot(first)));
  expect_complete(second);
  EXPECT_EQ(json({"cache", "ls"}).at("repositories").at(0).at("partial_bytes"), 0);
  expect_sound();
  EXPECT_EQ(run({"cache", "prune", "org/name"}).status, 2);
}

TEST_F(Verbs, CacheVerify) {
  const Commit commit = publish(small_model());
  pull();
  mock().command({{"op", "clear"}});
  const nlohmann::json good = json({"cache", "verify", "org/name"});
  EXPECT_EQ(good.at("good"), true);
  EXPECT_EQ(good.at("results").at(0).at("files"), commit.files.size());
  EXPECT_EQ(run({"cache", "verify"}).status, 0);
  std::string bytes = read_file(blob(commit, kWeights));
  bytes[1234] ^= 1;
  write_file(blob(commit, kWeights), bytes);
  const Outcome bad = run({"cache", "verify"});
  EXPECT_EQ(bad.status, 3);
  EXPECT_NE(bad.out.find(kWeights), std::string::npos) << bad.out;
  fs::remove(blob(commit, kWeights));
  EXPECT_EQ(json({"cache", "verify", "org/name"}, {}, 3).at("results").at(0).at("missing").size(), 1u);
  EXPECT_TRUE(mock().requests().empty()) << "needs no network";
  expect_error(run({"cache", "verify", "org/none"}), {"org/none"}, 9);
}

TEST_F(Verbs, CacheWithoutAnAction) {
  EXPECT_EQ(run({"cache"}).status, 2);
  EXPECT_EQ(run({"cache", "wipe"}).status, 2);
  EXPECT_EQ(run({"cache", "ls", "org/name"}).status, 2);
}

}  // namespace
}  // namespace bumblebee::hub_test
