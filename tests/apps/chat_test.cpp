// `chat` from a pipe: turns, commands, blocks of lines. terminal_test.cpp and line_editing_test.cpp have the terminal.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

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
  std::vector<nlohmann::json> open = answers("\"\"\"first\nsecond");
  ASSERT_EQ(open.size(), 1u) << "what ends with the input is said as well";
  EXPECT_EQ(open[0].at("prompt_tokens"), block[0].at("prompt_tokens"));
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

/// A model that thinks in a channel, as Gemma 4 does, and says each of its tokens once. The template would take a
/// thought for something that was said.
TEST(Chat, ThoughtsInChannelsAreShownAndForgotten) {
  Scratch scratch;
  const std::filesystem::path model = scratch / "model";
  copy_tiny_model(model);
  nlohmann::json tokenizer = nlohmann::json::parse(read_file(model / "tokenizer.json"));
  std::string biases;
  for (const auto& [text, id, special] :
       {std::tuple("<|channel>", 259, true), std::tuple("thought\n", 260, false), std::tuple("Hm", 261, false),
        std::tuple("<channel|>", 262, true), std::tuple("Yes", 263, false)}) {
    nlohmann::json token = tokenizer["added_tokens"][0];
    token.update({{"id", id}, {"content", text}, {"special", special}});
    tokenizer["added_tokens"].push_back(token);
    biases += (biases.empty() ? "" : ",") + std::to_string(id) + "=" + std::to_string((300 - id) * 100);
  }
  write_file(model / "tokenizer.json", tokenizer.dump());
  const std::string path = (scratch / "talk.json").string();
  const auto chat = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "chat", "-m", model.string(), "-n", "5", "--greedy", "--no-repeat-ngram", "1", "--logit-bias", biases};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(Call{arguments, {}, "one\n/save " + path + "\n", 0, {}});
  };
  Outcome got = chat({});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.out, "<think>\nHm\n</think>\n\nYes\n");
  EXPECT_EQ(nlohmann::json::parse(read_file(path)).at("messages").at(1).at("content"), "Yes");
  std::filesystem::remove(path);
  EXPECT_EQ(chat({"--strip", "think"}).out, "Yes\n");
  EXPECT_EQ(nlohmann::json::parse(read_file(path)).at("messages").at(1).at("content"), "Yes");
}

/// Keys and values are kept in whole pages of 64 tokens.
TEST(Chat, ATurnComputesOnlyItsOwnTokens) {
  const std::string one(200, 'x'), two(20, 'y');
  const std::vector<nlohmann::json> got = answers(one + "\n" + two + "\n/undo\nthree\n/reset\n" + one + "\n");
  ASSERT_EQ(got.size(), 4u);
  const auto cached = [&](size_t i) { return got[i].at("prompt_tokens_cached").get<int>(); };
  const int first = got[0].at("prompt_tokens");
  EXPECT_EQ(cached(0), 0);
  EXPECT_GE(cached(1), first / 64 * 64);
  EXPECT_LT(cached(1), got[1].at("prompt_tokens").get<int>() - int(two.size()));
  EXPECT_GE(cached(2), first / 64 * 64) << "what was taken back is not in the way";
  EXPECT_EQ(got[3].at("prompt_tokens"), first);
  EXPECT_GE(cached(3), (first - 1) / 64 * 64) << "the beginning is still there";
  EXPECT_LT(cached(3), first);
}

TEST(Chat, RetriesAndTakesBack) {
  std::vector<nlohmann::json> got = answers("one\n/retry\ntwo\n/undo\ntwo\n");
  ASSERT_EQ(got.size(), 4u);
  EXPECT_EQ(got[1].at("prompt_tokens"), got[0].at("prompt_tokens"));
  EXPECT_EQ(got[1].at("seed"), got[0].at("seed").get<uint64_t>() + 1) << "otherwise it would be the same";
  EXPECT_EQ(got[3].at("prompt_tokens"), got[2].at("prompt_tokens"));
  EXPECT_EQ(chat("/retry\n").status, 2);
  EXPECT_EQ(chat("/undo\n").status, 2);
}

TEST(Chat, ShowsAndRemovesTheSystemPrompt) {
  const Outcome got = chat("x\n/system\n/stats\n/system \"\"\n/system\n", {"--system-prompt", "Be kind."});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.err.find("Be kind."), std::string::npos);
  EXPECT_NE(got.err.find("tokens of context"), std::string::npos) << "showing it forgets nothing: " << got.err;
  EXPECT_NE(got.err.find("[no system prompt]"), std::string::npos) << got.err;
}

TEST(Chat, SettingsChangeTheNextAnswer) {
  const std::vector<nlohmann::json> got = answers("x\n/set n 2\nx\n/set max-tokens 6\nx\n");
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].at("tokens").size(), 4u);
  EXPECT_EQ(got[1].at("tokens").size(), 2u);
  EXPECT_EQ(got[2].at("tokens").size(), 6u);
  const Outcome shown = chat("/set\n/set temp 0.5\n/set greedy\n/set max-tokens -1\n/set strip emoji\n");
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_NE(shown.err.find("[greedy, max-tokens 4, seed "), std::string::npos) << shown.err;
  EXPECT_NE(shown.err.find("[temp 0.5, top-k 0, top-p 1, min-p 0, max-tokens 4, seed "), std::string::npos);
  EXPECT_NE(shown.err.find("[greedy, strip emoji, max-tokens -1, seed "), std::string::npos) << shown.err;
  // What excludes each other takes turns.
  const Outcome turns = chat("/set contrastive-alpha 0.6\n/set top-p 0.5\n/set contrastive-alpha 0.6\n/set temp 0.5\n");
  EXPECT_EQ(turns.status, 0) << turns.err;
  EXPECT_NE(turns.err.find("[contrastive-alpha 0.6, "), std::string::npos) << turns.err;
  EXPECT_NE(turns.err.find("top-p 0.5"), std::string::npos) << turns.err;
  EXPECT_NE(turns.err.find("[temp 0.5, top-k 0, top-p 1, "), std::string::npos) << turns.err;
  const Outcome wrong = chat("/set temp hot\n");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("/set: --temp"), std::string::npos) << wrong.err;
  EXPECT_EQ(wrong.err.find("--help"), std::string::npos) << wrong.err;
  EXPECT_EQ(chat("/set nonsense 1\n").status, 2);
}

TEST(Chat, GoesOnWithASavedConversation) {
  Scratch scratch;
  const std::string path = (scratch / "talk.json").string();
  ASSERT_EQ(chat("Hello\n/save " + path + "\n", {"--system-prompt", "Be kind."}).status, 0);
  const std::vector<nlohmann::json> whole = answers("Hello\nand then\n", {"--system-prompt", "Be kind."});
  const Outcome got = chat("/load " + path + "\n/system\nand then\n/save " + path + "\n", {"--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("prompt_tokens"), whole.at(1).at("prompt_tokens"));
  EXPECT_NE(got.err.find("[3 messages; the last one: assistant: AAAA]"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("Be kind."), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(read_file(path)).at("messages").size(), 5u);
  for (const char* wrong : {"", "{}", "[]", "no JSON", R"([{"role": "user"}])", R"([{"role": "user", "content": 1}])",
                            R"([{"role": "user", "content": "x", "name": "y"}])"}) {
    write_file(scratch / "wrong.json", wrong);
    EXPECT_EQ(chat("/load " + (scratch / "wrong.json").string() + "\n").status, 3) << wrong;
  }
}

TEST(Chat, ASlashIsNotAlwaysACommand) {
  EXPECT_EQ(chat("/etc/passwd is a file\n/1\n  /quit\nx\n").out, "AAAA\nAAAA\n");
}

TEST(Chat, OnlyTheContextEndsAnAnswerUnlessAsked) {
  const Outcome got =
      run(Call{{"chat", "-m", tiny_model(), "--greedy", "--logit-bias", "65=1000", "-c", "640"}, {}, "x\n", 0, {}});
  EXPECT_EQ(got.status, 0) << got.err;
  EXPECT_GT(got.out.size(), 580u);
  EXPECT_NE(got.err.find("[cut: the context of 640 tokens is full."), std::string::npos) << got.err;
  const Outcome full = chat("a question that does not fit\n", {"-c", "8"});
  EXPECT_NE(full.err.find("[chat] the context of 8 tokens is full"), std::string::npos) << full.err;
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
