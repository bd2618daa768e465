// `prepare`: what it writes, what it prints, and its errors.
#include <gtest/gtest.h>

#include <sstream>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

std::vector<nlohmann::json> rows_of(const std::filesystem::path& path) {
  std::vector<nlohmann::json> out;
  std::istringstream text(read_file(path));
  for (std::string line; std::getline(text, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

TEST(Prepare, WritesSplitsAndCountsTokens) {
  Scratch scratch;
  std::string posts;
  for (int i = 0; i < 20; ++i) posts += "post number " + std::to_string(i) + "\n";
  write_file(scratch / "posts.txt", posts + "post number 3\n");
  const std::string data = (scratch / "data").string();
  const Outcome got = run({"prepare", (scratch / "posts.txt").string(), "-o", data, "--prompt", "Go on.",
                           "--test-ratio", "0.05", "-m", tiny_model(), "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  const nlohmann::json json = got.json();
  EXPECT_EQ(json.at("texts"), 21);
  EXPECT_EQ(json.at("duplicates"), 1);
  EXPECT_EQ(json.at("train"), 18);
  EXPECT_EQ(json.at("valid"), 1);
  EXPECT_EQ(json.at("test"), 1);
  EXPECT_EQ(json.at("sources")[0].at("format"), "lines");
  // One token a byte: <|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\npost number N<|im_end|>\n
  EXPECT_EQ(json.at("tokens").at("shortest"), 1 + 5 + 6 + 1 + 1 + 1 + 10 + 13 + 1 + 1);
  EXPECT_EQ(json.at("tokens").at("longest"), json.at("tokens").at("shortest").get<int>() + 1);
  const auto rows = rows_of(scratch / "data/train.jsonl");
  ASSERT_EQ(rows.size(), 18u);
  EXPECT_EQ(rows[0].at("messages")[0].at("content"), "Go on.");
  EXPECT_EQ(rows[0].at("messages")[1].at("role"), "assistant");
}

TEST(Prepare, SaysWhatItDid) {
  Scratch scratch;
  write_file(scratch / "posts.csv", "id,body\n1,first\n2,second\n3,x\n");
  const Outcome got = run({"prepare", (scratch / "posts.csv").string(), "-o", (scratch / "data").string(), "--column",
                           "body", "--min-length", "3"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.out.find("3 texts (csv)"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("1 too short"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("1 to train, 1 to validate, 0 to test"), std::string::npos) << got.out;
  EXPECT_EQ(got.out.find("tokens"), std::string::npos) << "without a model there are none";
}

TEST(Prepare, WeightsAndPromptsOfTheCommandLine) {
  Scratch scratch;
  write_file(scratch / "a.txt", "first\nsecond\n");
  write_file(scratch / "b=2.txt", "third\n");
  write_file(scratch / "prompts.txt", "\xEF\xBB\xBFSay one.\n\nSay two.\n");
  const std::string data = (scratch / "data").string();
  const Outcome got = run({"prepare", (scratch / "a.txt").string() + "=3", (scratch / "b=2.txt").string(), "-o", data,
                           "--prompts", (scratch / "prompts.txt").string(), "--split-ratio", "1"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.out.find("2 texts (lines), weight 3"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("7 to train (3 texts)"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("prompt     2, one drawn for each"), std::string::npos) << got.out;
  EXPECT_EQ(rows_of(scratch / "data/train.jsonl").size(), 7u);
  EXPECT_EQ(run({"prepare", (scratch / "a.txt").string() + "=x", "-o", data}).status, 2);
  EXPECT_EQ(run({"prepare", (scratch / "a.txt").string() + "=0", "-o", data}).status, 2);
  EXPECT_EQ(run({"prepare", (scratch / "a.txt").string(), "-o", data, "--prompts", "/nonexistent"}).status, 2);
  const Outcome plain = run({"prepare", (scratch / "a.txt").string(), "-o", data, "--force"});
  EXPECT_NE(plain.out.find("prompt     Write a post. (--prompt sets it)"), std::string::npos) << plain.out;
}

TEST(Prepare, MistakesHaveTheirCodes) {
  Scratch scratch;
  const std::string data = (scratch / "data").string();
  EXPECT_EQ(run({"prepare", "-o", data}).status, 2);
  write_file(scratch / "posts.txt", "\n");
  const std::string posts = (scratch / "posts.txt").string();
  EXPECT_EQ(run({"prepare", posts}).status, 2);
  Outcome got = run({"prepare", posts, "-o", data});
  EXPECT_EQ(got.status, 3);
  EXPECT_NE(got.err.find("no valid content"), std::string::npos) << got.err;
  write_file(scratch / "posts.txt", "a\nb\n");
  EXPECT_EQ(run({"prepare", posts, "-o", data, "--split-ratio", "2"}).status, 2);
  EXPECT_EQ(run({"prepare", posts, "-o", data, "--split-ratio", "0.9", "--test-ratio", "0.5"}).status, 8);
  ASSERT_EQ(run({"prepare", posts, "-o", data}).status, 0);
  EXPECT_EQ(run({"prepare", posts, "-o", data}).status, 3) << "the files are there already";
  EXPECT_EQ(run({"prepare", posts, "-o", data, "--force"}).status, 0);
}

}  // namespace
}  // namespace bumblebee::apps_test
