// Lists of files that no honest Hub sends, and honest ones that are large, empty or moving.
#include <algorithm>

#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

const std::string kOid = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";  // git's empty file
const std::string kSha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class Listing : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model());
  }
  static nlohmann::json file(const std::string& path) {
    return {{"type", "file"}, {"path", path}, {"oid", kOid}, {"size", 0}};
  }
  static nlohmann::json large(const std::string& path) {
    nlohmann::json entry = file(path);
    entry["lfs"] = {{"oid", kSha256}, {"size", 0}, {"pointerSize", 130}};
    return entry;
  }
  void listed(const nlohmann::json& entries, bool latin1 = false) {
    mock().command({{"op", "clear"}});
    nlohmann::json rule = {{"where", "hub"}, {"path", "*/tree/*"}, {"json", entries}};
    if (latin1) rule["latin1"] = true;
    mock().fault(rule);
  }
  /// The listing is refused, with the words, before any file is asked for.
  void refused(const nlohmann::json& entries, const std::vector<std::string>& words = {}) {
    SCOPED_TRACE(entries.dump().substr(0, 300));
    listed(entries);
    expect_error(pull_fails(), words);
    EXPECT_TRUE(mock().requests("", "", "/resolve/").empty());
    EXPECT_FALSE(fs::exists(folder() / "snapshots"));
  }
  Commit commit_;
};

TEST_F(Listing, PathsThatLeadElsewhere) {
  for (const char* path : {"/etc/evil.json", "a//b.json", "a\\b.json", "C:/evil.json", "C:evil.json", "new\nline.json",
                           "tab\t.json", "\x7f.json", "\x01.json"})
    refused({file("config.json"), file(path)});
}

/// What is no part of a model is not fetched, and its name does not matter, until somebody asks for it.
TEST_F(Listing, PathsThatLeadElsewhereAreLeftWhereTheyAre) {
  for (const char* path :
       {"../evil.json", "a/../../evil.json", "./x.json", "", ".", "..", "a/./b.json", "..\\evil.json", "x.json/", "/",
        "a/..", "../../../../../../../../tmp/evil.json", "refs/../../x.json", "a\\b.png", "pictures/new\nline.png"}) {
    SCOPED_TRACE(path);
    fs::remove_all(cache_);
    nlohmann::json config = file("config.json");
    config["oid"] = commit_["config.json"].etag;
    config["size"] = commit_["config.json"].size;
    listed({config, file(path)});
    pull();
    expect_complete(commit_, {"config.json"});
    fs::remove_all(cache_);
    expect_error(run({"pull", "org/name", "--include", "*"}), {"org/name", "not to be trusted"}, 3);
    EXPECT_FALSE(fs::exists(folder() / "snapshots"));
  }
}

TEST_F(Listing, PathsThatAreNoText) {
  refused("[{\"type\":\"file\",\"path\":\"a\\u0000b.json\",\"oid\":\"" + kOid + "\",\"size\":0}]");
  refused("[{\"type\":\"file\",\"path\":\"a\\ud800b.json\",\"oid\":\"" + kOid + "\",\"size\":0}]");
  listed("[{\"type\":\"file\",\"path\":\"a\xC3\xBF\xC3\xBE.json\",\"oid\":\"" + kOid + "\",\"size\":0}]",
         true);  // leaves as FF FE
  expect_error(pull_fails(), {});
  refused("[{\"type\":\"file\",\"path\":5,\"oid\":\"" + kOid + "\",\"size\":0}]");
  refused("[{\"type\":\"file\",\"path\":null,\"oid\":\"" + kOid + "\",\"size\":0}]");
}

TEST_F(Listing, PathsThatAreTooLong) {
  refused(nlohmann::json::array({file(std::string(300, 'a') + ".json")}));
  std::string deep;
  for (int i = 0; i < 600; ++i) deep += "a/";
  refused(nlohmann::json::array({file(deep + "x.json")}));
}

TEST_F(Listing, PathsThatCollide) {
  refused({file("a.json"), file("a.json")});
  refused({file("a.json"), file("a.json/b.json")});
  refused({file("a.json"), file("A.json")});
  nlohmann::json config = file("config.json");
  config["oid"] = commit_["config.json"].etag;
  config["size"] = commit_["config.json"].size;
  listed({config, file("a.png"), file("A.png"), file("b"), file("b/c.png")});
  pull();
}

TEST_F(Listing, HashesThatAreNone) {
  for (const char* oid : {"", "abc", "../../../evil", "e69de29bb2d1d6434b8b29ae775ad8c2e48c539",
                          "E69DE29BB2D1D6434B8B29AE775AD8C2E48C5391", "g69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
                          "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 ", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n"}) {
    nlohmann::json entry = file("config.json");
    entry["oid"] = oid;
    refused(nlohmann::json::array({entry}), {"org/name"});
    entry = large("model.safetensors");
    entry["lfs"]["oid"] = oid;
    refused(nlohmann::json::array({entry}), {"org/name"});
  }
  for (const nlohmann::json& oid : {nlohmann::json(), nlohmann::json(5), nlohmann::json::array()}) {
    nlohmann::json entry = file("config.json");
    entry["oid"] = oid;
    refused(nlohmann::json::array({entry}), {"org/name"});
  }
}

TEST_F(Listing, SizesThatAreNone) {
  for (const char* size : {"-1", "1.5", "\"5\"", "null", "1e30", "18446744073709551616", "9223372036854775808", "[]"}) {
    refused("[{\"type\":\"file\",\"path\":\"config.json\",\"oid\":\"" + kOid + "\",\"size\":" + size + "}]",
            {"org/name"});
    refused("[{\"type\":\"file\",\"path\":\"model.safetensors\",\"oid\":\"" + kOid +
                "\",\"size\":0,\"lfs\":{\"oid\":\"" + kSha256 + "\",\"pointerSize\":1,\"size\":" + size + "}}]",
            {"org/name"});
  }
}

TEST_F(Listing, WhatIsNoList) {
  for (const char* text : {"", "null", "{}", "5", "[5]", "[null]", "[[]]", "[{\"type\":\"file\"",
                           "{\"error\": \"oops\"}", "[{}]", "[{\"type\":\"file\"}]"})
    refused(std::string(text));
  refused(std::string(100'000, '['));
}

TEST_F(Listing, ASumOfSizesThatOverflows) {
  nlohmann::json entries;
  for (int i = 0; i < 40; ++i) {
    nlohmann::json entry = large("model-" + std::to_string(i) + ".safetensors");
    entry["lfs"]["size"] = int64_t{1} << 60;
    entry["size"] = int64_t{1} << 60;
    entry["lfs"]["oid"] = std::string(62, 'a') + std::to_string(10 + i);
    entries.push_back(entry);
  }
  refused(entries);
}

TEST_F(Listing, MoreThanTheDiskHoldsIsToldBeforeAnythingIsFetched) {
  nlohmann::json entry = large("model.safetensors");
  entry["size"] = entry["lfs"]["size"] = (int64_t{1} << 44) - 1;  // no file is larger; no test machine has 16 TiB free
  listed({file("config.json"), entry});
  expect_error(pull_fails(), {"disk", "models--org--name"});
  EXPECT_TRUE(mock().requests("", "", "/resolve/").empty());
}

TEST_F(Listing, SizesThatDoNotFitTheContent) {
  for (int64_t size : {0, 1, 299'999, 300'001, 900'000}) {
    SCOPED_TRACE(size);
    nlohmann::json entry = large("model.safetensors");
    entry["size"] = entry["lfs"]["size"] = size;
    entry["lfs"]["oid"] = commit_["model.safetensors"].etag;
    listed(nlohmann::json::array({entry}));
    expect_error(pull_fails(), {"org/name"});
    expect_absent(commit_, "model.safetensors");
  }
}

TEST_F(Listing, HashesThatDoNotFitTheContent) {
  nlohmann::json entry = large("model.safetensors");
  entry["size"] = entry["lfs"]["size"] = 300'000;
  listed(nlohmann::json::array({entry}));
  expect_error(pull_fails(), {"org/name"});
  EXPECT_FALSE(fs::exists(folder() / "blobs" / kSha256));
}

TEST_F(Listing, AnswersOfAnotherFile) {
  // What the list promises under one name, and the server's headers under another.
  for (const char* header : {"X-Linked-Etag", "ETag"})
    for (const std::string& value :
         {"\"" + kSha256 + "\"", std::string("\"../../../../evil\""), std::string("W/\"\"")}) {
      SCOPED_TRACE(std::string(header) + ": " + value);
      fs::remove_all(cache_);
      mock().command({{"op", "clear"}});
      mock().fault({{"where", "hub"}, {"path", "*/resolve/*/model.safetensors"}, {"set", {{header, value}}}});
      const Outcome got = run({"pull", "org/name"});
      expect_complete_or_error(got, commit_);
      if (got.status != 0) expect_absent(commit_, "model.safetensors");
    }
}

TEST_F(Listing, HeadersOfAnotherCommitOrSize) {
  const nlohmann::json headers[] = {{{"X-Repo-Commit", std::string(40, 'b')}},
                                    {{"X-Repo-Commit", "../../../../evil"}},
                                    {{"X-Linked-Size", "5"}},
                                    {{"X-Linked-Size", "-1"}},
                                    {{"X-Linked-Size", "99999999999999999999"}}};
  for (const nlohmann::json& set : headers) {
    SCOPED_TRACE(set.dump());
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"}, {"path", "*/resolve/*"}, {"set", set}});
    const Outcome got = run({"pull", "org/name"});
    expect_sound();
    if (got.status == 0) expect_complete(commit_);
  }
}

TEST_F(Listing, EtagsWeakOrWithoutQuotes) {
  const std::string etag = commit_["model.safetensors"].etag;
  for (const std::string& text : {"W/\"" + etag + "\"", etag, "\"" + etag + "\""}) {
    SCOPED_TRACE(text);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"},
                  {"path", "*/resolve/*/model.safetensors"},
                  {"set", {{"X-Linked-Etag", text}, {"ETag", text}}}});
    pull();
    expect_complete(commit_);
  }
}

TEST_F(Listing, HeadersThatAreMissing) {
  mock().fault(
      {{"unset", {"ETag", "X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit", "Accept-Ranges", "Content-Type"}}});
  pull();
  expect_complete(commit_);
}

TEST_F(Listing, Pages) {
  mock().repository("org/name", {{"page_size", 1}});
  pull();
  expect_complete(commit_);
  EXPECT_GE(mock().requests("hub", "GET", "/tree/").size(), 5u);
}

TEST_F(Listing, PagesWithoutEnd) {
  mock().fault(
      {{"where", "hub"},
       {"path", "*/tree/*"},
       {"json", nlohmann::json::array()},
       {"headers",
        {{"Link", "<" + mock().hub + "/api/models/org/name/tree/" + commit_.sha + "?cursor=1>; rel=\"next\""}}}});
  expect_error(pull_fails(), {"org/name"});
}

TEST_F(Listing, LinksThatAreNone) {
  for (const char* link :
       {"", "<", "<>; rel=\"next\"", "<file:///etc/passwd>; rel=\"next\"", "nonsense", "<http://>; rel=next"}) {
    SCOPED_TRACE(link);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"}, {"path", "*/tree/*"}, {"set", {{"Link", link}}}});
    const Outcome got = run({"pull", "org/name"});
    expect_complete_or_error(got, commit_);
  }
}

TEST_F(Listing, FoldersAreNotFetched) {
  nlohmann::json config = file("config.json");
  config["oid"] = commit_["config.json"].etag;
  config["size"] = commit_["config.json"].size;
  mock().fault({{"where", "hub"},
                {"path", "*/tree/*"},
                {"json", {{{"type", "directory"}, {"path", "parts"}, {"oid", kOid}, {"size", 0}}, config}}});
  pull();
  expect_complete(commit_, {"config.json"});
  EXPECT_EQ(mock().requests("", "", "/resolve/").size(), 1u);
}

TEST_F(Listing, AnEmptyRepository) {
  listed(nlohmann::json::array());
  const Outcome got = run({"pull", "org/name"});
  expect_sound();
  if (got.status != 0) expect_error(got, {"org/name"});
}

TEST_F(Listing, XetIsLeftAlone) {
  mock().repository("org/name", {{"xet", true}});
  pull();
  expect_complete(commit_);
  EXPECT_TRUE(mock().requests("", "", "xet-read-token").empty());
}

TEST_F(Listing, OneContentUnderSeveralNamesIsFetchedOnce) {
  const std::string same = noise(200'000, 77);
  const Commit commit = publish(
      {{"config.json", "{}"}, {"a.safetensors", same}, {"b.safetensors", same}, {"c.safetensors", same}}, "org/same");
  pull("org/same");
  expect_complete(commit);
  uint64_t sent = 0;
  for (const Request& request : mock().requests("cdn")) sent += request.sent;
  EXPECT_EQ(sent, same.size());
}

TEST_F(Listing, ABranchThatMovesDuringTheDownload) {
  Files after = small_model(300'000, 2);
  after["config.json"] = "{\"model_type\": \"qwen3\"}\n";
  const Commit moved = publish(after, "org/name", {{"branch", "other"}});
  mock().fault({{"where", "hub"},
                {"path", "*/tree/*"},
                {"times", 1},
                {"then", {{{"op", "move"}, {"repo", "org/name"}, {"branch", "main"}, {"commit", moved.sha}}}}});
  pull();
  expect_complete(commit_);
  EXPECT_FALSE(fs::exists(snapshot(moved))) << "all files are of the commit that was asked for first";
  EXPECT_EQ(read_file(folder() / "refs" / "main"), commit_.sha);
  pull();
  expect_complete(moved);
  EXPECT_EQ(read_file(folder() / "refs" / "main"), moved.sha);
}

TEST_F(Listing, FiveThousandFiles) {
  Files files;
  for (int i = 0; i < 5000; ++i)
    files["parts/" + std::to_string(i % 50) + "/" + std::to_string(i) + ".json"] =
        "{\"n\": " + std::to_string(i % 4000) + "}";
  const Commit commit = publish(files, "org/many");
  mock().repository("org/many", {{"redirect_text", false}});
  pull("org/many");
  expect_complete(commit);
  EXPECT_LE(mock().requests("hub", "GET", "/resolve/").size(), 4100u) << "each content once";
}

}  // namespace
}  // namespace bumblebee::hub_test
