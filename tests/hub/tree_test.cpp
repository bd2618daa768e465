// Lists of files: what is refused, and that the kept file is byte for byte Python's.
#include "hub/tree.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/hub/etags.h"

namespace bumblebee::hub {
namespace {

Json file(const std::string& path, int64_t size = 5) {
  return {{"type", "file"}, {"path", path}, {"oid", kSha1}, {"size", size}};
}

Json large(const std::string& path, int64_t size = 5) {
  Json entry = file(path, size);
  entry["lfs"] = {{"oid", kSha256}, {"size", size}, {"pointerSize", 130}};
  return entry;
}

void expect_refused(const Json& page, const std::string& part = "") {
  Tree tree;
  try {
    add_tree_page(tree, page, "org/name");
    std::vector<std::string> paths;
    for (const auto& [path, file] : tree) paths.push_back(path);
    check_paths(paths, "org/name");
    ADD_FAILURE() << "taken: " << page.dump();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("org/name"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Tree, TakesFilesAndLeavesFolders) {
  Tree tree;
  Json with_xet = large("b/model.safetensors", 7);
  with_xet["xetHash"] = std::string(64, 'c');
  add_tree_page(tree,
                {file("a.json", 3), {{"type", "directory"}, {"path", "b"}, {"oid", kSha1}, {"size", 0}}, with_xet},
                "org/name");
  add_tree_page(tree, Json::array(), "org/name");
  ASSERT_EQ(tree.size(), 2u);
  EXPECT_EQ(tree.at("a.json").etag(), kSha1);
  EXPECT_EQ(tree.at("a.json").bytes(), 3u);
  EXPECT_EQ(tree.at("b/model.safetensors").etag(), kSha256);
  EXPECT_EQ(tree.at("b/model.safetensors").bytes(), 7u);
  EXPECT_EQ(tree.at("b/model.safetensors").xet_hash, std::string(64, 'c'));
}

TEST(Tree, Refuses) {
  for (const char* page : {"null", "{}", "5", "\"x\"", "[5]", "[null]", "[[]]", "[{}]"})
    expect_refused(Json::parse(page));
  for (const char* path : {"", "..", "../x", "/x", "a//b", "a\\b", "a\nb"}) expect_refused(Json::array({file(path)}));
  for (const char* hash : {"", "x", "../x"}) {
    Json entry = file("a.json");
    entry["oid"] = hash;
    expect_refused(Json::array({entry}));
    entry = large("a.bin");
    entry["lfs"]["oid"] = hash;
    expect_refused(Json::array({entry}));
  }
  for (const char* size : {"-1", "1.5", "null", "\"5\"", "18446744073709551615", "9223372036854775807"}) {
    Json entry = file("a.json");
    entry["size"] = Json::parse(size);
    expect_refused(Json::array({entry}));
    entry = large("a.bin");
    entry["lfs"]["size"] = Json::parse(size);
    expect_refused(Json::array({entry}));
  }
  expect_refused({file("a"), file("a")}, "twice");
  expect_refused({file("a"), file("A")}, "case");
  expect_refused({file("a"), file("a/b")}, "folder");
  expect_refused({file("a/B/c"), file("A/b")}, "folder");
  Json link = file("a.json");
  link["type"] = "symlink";
  expect_refused(Json::array({link}));
}

TEST(Tree, NamesThatNobodyFetchesAreNobodysConcern) {
  Tree tree;
  add_tree_page(tree, {file("../x.json"), file("a\\b.png"), file("A.json"), file("a.json")}, "org/name");
  EXPECT_EQ(tree.size(), 4u);
  EXPECT_NO_THROW(check_paths({"a.json"}, "org/name"));
  EXPECT_THROW(check_paths({"a.json", "A.json"}, "org/name"), Error);
  EXPECT_THROW(check_paths({"../x.json"}, "org/name"), Error);
}

TEST(Tree, APathTwiceOnTwoPages) {
  Tree tree;
  add_tree_page(tree, Json::array({file("a.json")}), "org/name");
  EXPECT_THROW(add_tree_page(tree, Json::array({file("a.json")}), "org/name"), Error);
}

TEST(Tree, KeptAsPythonKeepsIt) {
  Tree tree;
  Json with_xet = large("b/model.safetensors", 7);
  with_xet["xetHash"] = std::string(64, 'c');
  add_tree_page(tree, {with_xet, file("uml\xC3\xA4ut.json", 3), large("c.bin", 9), file("\xF0\x9F\x90\x9D")},
                "org/name");
  const std::string expected = R"({
 "format_version": 1,
 "files": {
  "b/model.safetensors": {
   "size": 7,
   "blob_id": ")" + kSha1 + R"(",
   "lfs_sha256": ")" + kSha256 +
                               R"(",
   "lfs_size": 7,
   "xet_hash": ")" + std::string(64, 'c') +
                               R"("
  },
  "c.bin": {
   "size": 9,
   "blob_id": ")" + kSha1 + R"(",
   "lfs_sha256": ")" + kSha256 +
                               R"(",
   "lfs_size": 9
  },
  "uml\u00e4ut.json": {
   "size": 3,
   "blob_id": ")" + kSha1 + R"("
  },
  "\ud83d\udc1d": {
   "size": 5,
   "blob_id": ")" + kSha1 + R"("
  }
 }
})";
  EXPECT_EQ(tree_to_text(tree), expected);
  const std::optional<Tree> again = tree_from_text(expected, "x");
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(tree_to_text(*again), expected);
  EXPECT_EQ(tree_to_text({}), "{\n \"format_version\": 1,\n \"files\": {}\n}");
}

TEST(Tree, KeptFilesThatAreNotGoodAreNone) {
  for (const char* text :
       {"", "{", "null", "[]", "{}", R"({"format_version": 2, "files": {}})", R"({"format_version": 1})",
        R"({"format_version": 1, "files": []})", R"({"format_version": 1, "files": {"a": 5}})",
        R"({"format_version": 1, "files": {"a": {"size": 1}}})",
        R"({"format_version": 1, "files": {"a": {"size": -1, "blob_id": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}}})",
        R"({"format_version": "1", "files": {}})"})
    EXPECT_FALSE(tree_from_text(text, "x").has_value()) << text;
  EXPECT_TRUE(tree_from_text(
      R"({"format_version": 1, "files": {"a": {"size": 1, "blob_id": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "later": 1}}})",
      "x"));
}

}  // namespace
}  // namespace bumblebee::hub
