// `chat` from a pipe: turns, commands, blocks of lines. Line editing needs a terminal and is not tested here.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

Outcome chat(const std::string& input, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"chat", "-m", tiny_model(), "-n", "4", "--greedy", "--logit-bias", "65=1000"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(Call{arguments, {}, input, 0, {}});
}

std::vector<nlohmann::json> answers(const std::string& input, std::vector<std::string> more = {}) {
  more.push_back("--json");
  Outcome got = chat(input, std::move(more));
  EXPECT_EQ(got.status, 0) << got.err;
  std::vector<nlohmann::json> out;
  for (size_t start = 0; start < got.out.size();) {
    size_t end = got.out.find('\n', start);
    out.push_back(nlohmann::json::parse(got.out.substr(start, end - start)));
    start = end + 1;
  }
  return out;
}

TEST(Chat, AnswersEachLine) {
  Outcome got = chat("one\n\ntwo\n");
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.out, "AAAA\nAAAA\n");
}

TEST(Chat, RemembersTheConversationUntilReset) {
  std::vector<nlohmann::json> got = answers("one\ntwo\n/reset\none\n");
  ASSERT_EQ(got.size(), 3u);
  int first = got[0].at("prompt_tokens"), second = got[1].at("prompt_tokens");
  // The answer "AAAA", its end and line end; then <|im_start|> user \n two <|im_end|> \n <|im_start|> assistant \n.
  EXPECT_EQ(second, first + 4 + 2 + (1 + 5 + 3 + 1 + 1) + (1 + 10));
  EXPECT_EQ(got[2].at("prompt_tokens"), first);
}

TEST(Chat, ABlockIsOneMessage) {
  std::vector<nlohmann::json> block = answers("\"\"\"first\nsecond\"\"\"\n");
  std::vector<nlohmann::json> word = answers("firstsecond\n");
  ASSERT_EQ(block.size(), 1u);
  EXPECT_EQ(block[0].at("prompt_tokens"), word.at(0).at("prompt_tokens").get<int>() + 1) << "the line end between them";
  std::vector<nlohmann::json> spread = answers("\"\"\"\nfirst\nsecond\n\"\"\"\n");
  ASSERT_EQ(spread.size(), 1u);
  EXPECT_EQ(spread[0].at("prompt_tokens"), block[0].at("prompt_tokens"));
}

TEST(Chat, SystemPromptByFlagAndByCommand) {
  int plain = answers("x\n").at(0).at("prompt_tokens");
  int by_flag = answers("x\n", {"--system-prompt", "abc"}).at(0).at("prompt_tokens");
  EXPECT_GT(by_flag, plain);
  EXPECT_EQ(answers("/system abc\nx\n").at(0).at("prompt_tokens"), by_flag);
}

TEST(Chat, SavesTheConversation) {
  Scratch scratch;
  std::string path = (scratch / "talk.json").string();
  Outcome got = chat("Hello\n/save " + path + "\n", {"--system-prompt", "Be kind."});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json messages = nlohmann::json::parse(read_file(path)).at("messages");
  EXPECT_EQ(messages,
            nlohmann::json::parse(R"([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"},
                                                {"role": "assistant", "content": "AAAA"}])"));
}

TEST(Chat, CommandsAnswerOnStderr) {
  Outcome got = chat("/help\nx\n/stats\n/quit\nnever reached\n");
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.out, "AAAA\n");
  EXPECT_NE(got.err.find("/reset"), std::string::npos);
  EXPECT_NE(got.err.find("of 32768 tokens of context"), std::string::npos) << got.err;
}

TEST(Chat, AMistakeInAScriptEndsIt) {
  Outcome got = chat("/nonsense\nx\n");
  EXPECT_EQ(got.status, 2);
  EXPECT_EQ(got.out, "");
  EXPECT_EQ(chat("a question that does not fit\n", {"-c", "8"}).status, 8);
}

TEST(Chat, CtrlCWithoutATerminalEndsWith130) {
  Outcome got = run(Call{{"chat", "-m", tiny_model(), "-n", "30000", "--greedy", "--logit-bias", "65=1000", "-t", "1"},
                         {},
                         "x\n",
                         0,
                         "A"});
  EXPECT_EQ(got.status, 130) << got.err;
}

}  // namespace
}  // namespace bumblebee::apps_test
