// Texts of every format, what is left out, and splits that share nothing.
#include "dataset/prepare.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "dataset/post_reader.h"

namespace bumblebee::dataset {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

Texts texts(std::string_view bytes, PostFormat format, const PrepareOptions& options = {}) {
  Texts out;
  for (const Post& post : parse_posts(bytes, format, "posts", options).posts) out.push_back(post.text);
  return out;
}

void expect_error(std::string_view bytes, PostFormat format, const std::string& part,
                  const PrepareOptions& options = {}) {
  try {
    parse_posts(bytes, format, "posts", options);
    ADD_FAILURE() << "accepted: " << bytes;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_file);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(PostReader, Lines) {
  EXPECT_EQ(texts("one\n  two \r\n\n\nthree", PostFormat::lines), (Texts{"one", "two", "three"}));
  EXPECT_EQ(texts("\xEF\xBB\xBFone\n", PostFormat::lines), Texts{"one"});
}

TEST(PostReader, Paragraphs) {
  EXPECT_EQ(texts("\none\r\ntwo\r\n\n \nthree\n\n", PostFormat::paragraphs), (Texts{"one\ntwo", "three"}));
  EXPECT_EQ(texts("one\n\ntwo\n%\nthree\n%\n", PostFormat::paragraphs, {.separator = "%"}),
            (Texts{"one\n\ntwo", "three"}));
}

TEST(PostReader, JsonAndJsonl) {
  EXPECT_EQ(texts(R"(["one", {"text": " two "}])", PostFormat::json), (Texts{"one", "two"}));
  EXPECT_EQ(texts("\"one\"\n\n{\"body\": \"two\", \"text\": 7}\n", PostFormat::jsonl, {.column = "body"}),
            (Texts{"one", "two"}));
  expect_error("{\"a\": 1}", PostFormat::json, "expected a JSON array");
  expect_error("[\"one\", {\"body\": \"x\"}]", PostFormat::json, "posts:2] expected text under the key 'text'");
  expect_error("\"one\"\n{\"text\": 7}\n", PostFormat::jsonl, "posts:2");
  expect_error("\"one\"\n\"two\n", PostFormat::jsonl, "posts:2");
}

TEST(PostReader, Csv) {
  const std::string table = "id,text,likes\n1,\"one, two\",7\n2,three,8\n";
  EXPECT_EQ(texts(table, PostFormat::csv), (Texts{"one, two", "three"}));
  EXPECT_EQ(texts(table, PostFormat::csv, {.column = "likes"}), (Texts{"7", "8"}));
  EXPECT_EQ(texts("post\none\ntwo\n", PostFormat::csv), (Texts{"one", "two"})) << "the only column";
  expect_error("id,post\n1,x\n", PostFormat::csv, "no column 'text'; there are 'id', 'post'");
  expect_error("post\nx\n", PostFormat::csv, "no column 'body'", {.column = "body"});
}

TEST(PostReader, BytesThatAreNoTextNameTheirLine) {
  expect_error("one\n\xFF\xFE\n", PostFormat::lines, "posts:2] the text is not UTF-8");
}

TEST(PostReader, TheFormatFollowsFromTheNameAndTheGaps) {
  EXPECT_EQ(format_of("a.JSON", "", {}), PostFormat::json);
  EXPECT_EQ(format_of("a.jsonl", "", {}), PostFormat::jsonl);
  EXPECT_EQ(format_of("a.csv", "", {}), PostFormat::csv);
  EXPECT_EQ(format_of("a.txt", "one\ntwo\n", {}), PostFormat::lines);
  EXPECT_EQ(format_of("a.txt", "one\ntwo\n\n\n", {}), PostFormat::lines) << "gaps at the end are none";
  EXPECT_EQ(format_of("a", "one\n\ntwo\n", {}), PostFormat::paragraphs);
  EXPECT_EQ(format_of("a", "one\ntwo\n", {.separator = "%"}), PostFormat::paragraphs);
  EXPECT_EQ(format_of("a.csv", "", {.format = PostFormat::lines}), PostFormat::lines);
  EXPECT_EQ(format_of("tweets.js", "\xEF\xBB\xBFwindow.YTD.tweets.part0 = []", {}), PostFormat::twitter);
  EXPECT_THROW(format_of("app.js", "export const a = 1;\n", {}), Error) << "a program";
  EXPECT_EQ(format_of("app.js", "", {.format = PostFormat::lines}), PostFormat::lines);
}

class Prepare : public ::testing::Test {
 protected:
  Prepare() {
    std::string name = (fs::temp_directory_path() / "bumblebee-prepare-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    folder_ = name;
  }
  ~Prepare() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  PrepareResult run(const std::vector<PostSource>& sources, const PrepareOptions& options = {},
                    const CountTokens& count = {}) {
    return prepare(sources, folder_ / "data", options, count);
  }
  Texts rows(const std::string& name) {
    Texts out;
    const fs::path path = folder_ / "data" / name;
    if (!fs::exists(path)) return out;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) out.push_back(line);
    return out;
  }
  Texts answers(const std::string& name) {
    Texts out;
    for (const std::string& row : rows(name)) out.push_back(Json::parse(row)["messages"].back()["content"]);
    return out;
  }
  static std::string numbered(int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += "text number " + std::to_string(i) + "\n";
    return out;
  }
  void expect_error(ErrorCode code, const std::string& part, const std::vector<PostSource>& sources,
                    const PrepareOptions& options = {}) {
    try {
      run(sources, options);
      ADD_FAILURE() << "accepted; expected: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  fs::path folder_;
};

TEST_F(Prepare, RowsAreConversations) {
  run({write("posts.txt", "Grüße \"you\"\n")}, {.prompts = {"Write."}, .system_prompt = "Be me."});
  ASSERT_EQ(rows("train.jsonl").size(), 1u);
  EXPECT_EQ(rows("train.jsonl")[0],
            R"({"messages":[{"role":"system","content":"Be me."},{"role":"user","content":"Write."},)"
            R"({"role":"assistant","content":"Grüße \"you\""}]})");
  run({folder_ / "posts.txt"}, {.overwrite = true});
  EXPECT_EQ(Json::parse(rows("train.jsonl")[0])["messages"].size(), 2u);
  EXPECT_EQ(Json::parse(rows("train.jsonl")[0])["messages"][0]["content"], "Write a post.");
}

TEST_F(Prepare, WeightsAreCopiesInTrainingAlone) {
  const PostSource often(write("often.txt", numbered(40)), 3),
      half(write("half.txt",
                 [] {
                   std::string out;
                   for (int i = 0; i < 400; ++i) out += "rare text " + std::to_string(i) + "\n";
                   return out;
                 }()),
           0.5);
  const PrepareResult result = run({often, half}, {.split_ratio = 0.8});
  std::map<std::string, int> counts;
  for (const std::string& text : answers("train.jsonl")) ++counts[text];
  int rare = 0;
  for (const auto& [text, count] : counts) {
    EXPECT_EQ(count, text.starts_with("text") ? 3 : 1) << text;
    rare += text.starts_with("rare") ? 1 : 0;
  }
  EXPECT_GT(rare, 120);
  EXPECT_LT(rare, 200) << "half of some 320";
  EXPECT_EQ(result.train_texts, int64_t(counts.size()));
  EXPECT_EQ(result.train, int64_t(rows("train.jsonl").size()));
  EXPECT_EQ(result.valid, 88);
  std::set<std::string> valid;
  for (const std::string& text : answers("valid.jsonl")) {
    EXPECT_TRUE(valid.insert(text).second) << "once each";
    EXPECT_FALSE(counts.contains(text)) << "no text in two files";
  }
  EXPECT_EQ(result.sources[0].weight, 3);
}

TEST_F(Prepare, TheLargerWeightOfATextThatIsInTwoSourcesCounts) {
  const PrepareResult result = run(
      {PostSource(write("a.txt", "same words\n")), PostSource(write("b.txt", "same  words\n"), 2)}, {.split_ratio = 1});
  EXPECT_EQ(result.duplicates, 1);
  EXPECT_EQ(result.train, 2);
  for (const double wrong : {0.0, -1.0, 1001.0, std::nan("")})
    expect_error(ErrorCode::bad_request, "weight", {PostSource(folder_ / "a.txt", wrong)}, {.overwrite = true});
}

TEST_F(Prepare, EachRowGetsOneOfThePrompts) {
  run({write("posts.txt", numbered(200))}, {.prompts = {"One.", "Two.", "Three."}, .split_ratio = 1});
  std::map<std::string, int> counts;
  for (const std::string& row : rows("train.jsonl")) ++counts[Json::parse(row)["messages"][0]["content"]];
  ASSERT_EQ(counts.size(), 3u);
  for (const auto& [prompt, count] : counts) EXPECT_GT(count, 40) << prompt;
  const Texts before = rows("train.jsonl");
  run({folder_ / "posts.txt"}, {.prompts = {"One.", "Two.", "Three."}, .split_ratio = 1, .overwrite = true});
  EXPECT_EQ(rows("train.jsonl"), before) << "a function of the seed";
}

TEST_F(Prepare, ArchivesAreKnownByWhatTheyHold) {
  const fs::path tweets = write("tweets.js", R"(window.YTD.tweets.part0 = [{"tweet": {"full_text": "my first tweet"}},
    {"tweet": {"full_text": "RT @a: theirs"}}, {"tweet": {"full_text": "@a an answer", "in_reply_to_user_id_str": "1"}}])");
  const fs::path posts = write("posts.json", R"([{"$type": "app.bsky.feed.post", "text": "my first post"}])");
  PrepareResult result = run({tweets, posts}, {.split_ratio = 1});
  EXPECT_EQ(result.sources[0].format, PostFormat::twitter);
  EXPECT_EQ(result.sources[1].format, PostFormat::bluesky);
  EXPECT_EQ(result.reposts, 1);
  EXPECT_EQ(result.train, 3);
  result = run({tweets, posts}, {.split_ratio = 1, .replies = false, .overwrite = true});
  EXPECT_EQ(result.replies, 1);
  EXPECT_EQ(result.train, 2);
}

TEST_F(Prepare, LinesThatAStrayEmptyOneMakesParagraphsAreNoted) {
  std::string text = numbered(30);
  text.insert(text.find("text number 15"), "\n");
  const PrepareResult guessed = run({write("posts.txt", text)});
  EXPECT_EQ(guessed.texts, 2);
  ASSERT_EQ(guessed.notes.size(), 1u);
  EXPECT_NE(guessed.notes[0].find("30 lines are 2 paragraphs"), std::string::npos) << guessed.notes[0];
  EXPECT_TRUE(run({folder_ / "posts.txt"}, {.format = PostFormat::paragraphs, .overwrite = true}).notes.empty());
}

TEST_F(Prepare, SplitsShareNothingAndLoseNothing) {
  const PrepareResult result = run({write("posts.txt", numbered(100))}, {.split_ratio = 0.8, .test_ratio = 0.1});
  EXPECT_EQ(result.train, 80);
  EXPECT_EQ(result.valid, 10);
  EXPECT_EQ(result.test, 10);
  std::set<std::string> all;
  size_t count = 0;
  for (const char* name : {"train.jsonl", "valid.jsonl", "test.jsonl"}) {
    for (const std::string& text : answers(name)) all.insert(text), ++count;
  }
  EXPECT_EQ(count, 100u);
  EXPECT_EQ(all.size(), 100u);
}

TEST_F(Prepare, TheSeedMakesTheSplit) {
  const fs::path posts = write("posts.txt", numbered(50));
  run({posts}, {.seed = 1});
  const Texts first = answers("valid.jsonl");
  EXPECT_EQ(first.size(), 5u);
  run({posts}, {.seed = 1, .overwrite = true});
  EXPECT_EQ(answers("valid.jsonl"), first);
  run({posts}, {.seed = 2, .overwrite = true});
  EXPECT_NE(answers("valid.jsonl"), first);
}

TEST_F(Prepare, WhatIsShortLongOrThereAlreadyIsCounted) {
  const PrepareResult result = run(
      {write("a.txt", "ab\nabc\nGrüße\nGrüße\nlonger than that\n"), write("b.json", R"(["abc", "a  b c", "a b\nc"])")},
      {.split_ratio = 1, .min_length = 3, .max_length = 6});
  EXPECT_EQ(result.texts, 8);
  EXPECT_EQ(result.too_short, 1);
  EXPECT_EQ(result.too_long, 1);
  EXPECT_EQ(result.duplicates, 3) << "white space makes no other text";
  EXPECT_EQ(result.train, 3);
  ASSERT_EQ(result.sources.size(), 2u);
  EXPECT_EQ(result.sources[0].format, PostFormat::lines);
  EXPECT_EQ(result.sources[1].texts, 3);
  EXPECT_EQ(result.characters.shortest, 3);
  EXPECT_EQ(result.characters.longest, 6);
  EXPECT_EQ(result.characters.total, 3 + 5 + 6) << "characters are code points";
}

TEST_F(Prepare, LengthsInTokensAreOfWholeRows) {
  const PrepareResult result =
      run({write("posts.txt", numbered(20))}, {}, [](const std::string& row) { return int64_t(row.size()); });
  EXPECT_EQ(result.tokens.count, 20);
  int64_t total = 0;
  for (const char* name : {"train.jsonl", "valid.jsonl"}) {
    for (const std::string& row : rows(name)) total += int64_t(row.size());
  }
  EXPECT_EQ(result.tokens.total, total);
  EXPECT_LE(result.tokens.shortest, result.tokens.median);
  EXPECT_LE(result.tokens.median, result.tokens.percentile95);
  EXPECT_LE(result.tokens.percentile95, result.tokens.longest);
}

TEST_F(Prepare, NearestRanks) {
  std::string text;
  for (int i = 1; i <= 100; ++i) text += std::string(size_t(i), 'x') + "\n";
  const LengthStatistics lengths = run({write("posts.txt", text)}).characters;
  EXPECT_EQ(lengths.shortest, 1);
  EXPECT_EQ(lengths.median, 50);
  EXPECT_EQ(lengths.percentile95, 95);
  EXPECT_EQ(lengths.longest, 100);
  EXPECT_DOUBLE_EQ(lengths.mean, 50.5);
}

TEST_F(Prepare, FewTextsStillValidate) {
  EXPECT_EQ(run({write("two.txt", "a\nb\n")}).valid, 1);
  const PrepareResult one = run({write("one.txt", "a\n")}, {.overwrite = true});
  EXPECT_EQ(one.train, 1);
  EXPECT_EQ(one.valid, 0);
  EXPECT_FALSE(fs::exists(folder_ / "data" / "valid.jsonl")) << "the earlier run's file is gone";
  EXPECT_EQ(run({folder_ / "two.txt"}, {.split_ratio = 1, .overwrite = true}).valid, 0);
}

TEST_F(Prepare, OnlyFilesOfAnEarlierRunAreReplaced) {
  const fs::path posts = write("posts.txt", numbered(20)), data = folder_ / "data";
  const auto complaint = [&](const fs::path& source) {
    try {
      run({source}, {.overwrite = true});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  fs::create_directories(data);
  for (const char* name : {"train.jsonl", "valid.jsonl", "test.jsonl"}) {  // also one that this run would not write
    std::ofstream(data / name) << "mine";
    EXPECT_NE(complaint(posts).find("not as an earlier run wrote it"), std::string::npos) << name;
    EXPECT_EQ(rows(name), std::vector<std::string>{"mine"});
    fs::remove(data / name);
  }
  EXPECT_EQ(complaint(posts), "");
  EXPECT_EQ(complaint(posts), "");
  EXPECT_NE(complaint(data / "train.jsonl").find("apart from the input"), std::string::npos);
  std::ofstream(data / "train.jsonl", std::ios::app) << "one more by hand\n";
  EXPECT_NE(complaint(posts).find("not as an earlier run wrote it"), std::string::npos);
}

TEST_F(Prepare, NothingLeftIsAnError) {
  expect_error(ErrorCode::bad_file, "no valid content", {write("empty.txt", " \n\n")});
  expect_error(ErrorCode::bad_file, "2 too short", {write("short.txt", "a\nb\n")}, {.min_length = 5});
  EXPECT_FALSE(fs::exists(folder_ / "data" / "train.jsonl"));
}

TEST_F(Prepare, FilesInTheWayStay) {
  run({write("posts.txt", "a\nb\n")});
  expect_error(ErrorCode::bad_file, "exists already", {folder_ / "posts.txt"});
}

TEST_F(Prepare, OptionsOutOfRangeAreNamed) {
  const fs::path posts = write("posts.txt", "a\nb\n");
  expect_error(ErrorCode::bad_request, "split_ratio", {posts}, {.split_ratio = 0});
  expect_error(ErrorCode::bad_request, "split_ratio", {posts}, {.split_ratio = 1.5});
  expect_error(ErrorCode::bad_request, "test_ratio", {posts}, {.split_ratio = 0.9, .test_ratio = 0.2});
  expect_error(ErrorCode::bad_request, "max_length", {posts}, {.min_length = 5, .max_length = 4});
  expect_error(ErrorCode::bad_request, "prompt", {posts}, {.prompts = {" "}});
  expect_error(ErrorCode::bad_file, "nowhere.txt", {folder_ / "nowhere.txt"});
}

}  // namespace
}  // namespace bumblebee::dataset
