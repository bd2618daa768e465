// What a person at a terminal sees: answers that were cut, a full context, Ctrl-C and Ctrl-D once, log lines beside
// text.
#include "tests/apps/terminal.h"

#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

TEST(Terminal, AnswersAndSaysWhenItWasCut) {
  Terminal terminal(chat_arguments());
  terminal.wait_for(kPrompt);
  terminal.type("one\r");
  terminal.wait_for("AAAA");
  terminal.wait_for("[cut at 4 tokens: /set max-tokens N allows more, -1 has no limit]");
  terminal.wait_for(kPrompt);
  terminal.type("/stats\r");
  terminal.wait_for("tokens of context");
  terminal.wait_for(kPrompt);
  terminal.type("\x04");
  EXPECT_EQ(terminal.status(), 0) << "Ctrl-D once";
}

TEST(Terminal, CtrlCStopsTheAnswerOnly) {
  Terminal terminal(chat_arguments({"-n", "-1", "-t", "1"}));
  terminal.wait_for(kPrompt);
  terminal.type("one\r");
  terminal.wait_for("AAA");
  terminal.type("\x03");
  const std::string shown = terminal.wait_for(kPrompt);
  if (shown.find("[cut") != std::string::npos) GTEST_SKIP() << "the answer was complete before the key came";
  EXPECT_NE(shown.find("[stopped]"), std::string::npos) << shown;
  EXPECT_EQ(shown.find("error"), std::string::npos) << shown;
  terminal.type("/quit\r");
  EXPECT_EQ(terminal.status(), 0);
}

TEST(Terminal, ARetryThatIsStoppedKeepsTheAnswer) {
  Scratch scratch;
  const std::string path = (scratch / "saved.json").string();
  Terminal terminal(chat_arguments({"-t", "1"}));
  terminal.wait_for(kPrompt);
  terminal.type("one\r");
  terminal.wait_for("[cut at 4 tokens");
  terminal.wait_for(kPrompt);
  terminal.type("/set max-tokens -1\r");
  terminal.wait_for("max-tokens -1, seed");
  terminal.wait_for(kPrompt);
  terminal.type("/retry\r");
  terminal.wait_for("AAAAAA");
  terminal.type("\x03");
  const std::string shown = terminal.wait_for(kPrompt);
  if (shown.find("[cut") != std::string::npos) GTEST_SKIP() << "the answer was complete before the key came";
  EXPECT_NE(shown.find("[stopped; the answer of before stays]"), std::string::npos) << shown;
  terminal.type("/save " + path + "\r");
  terminal.wait_for("[saved");
  EXPECT_EQ(nlohmann::json::parse(read_file(path)).at("messages")[1].at("content"), "AAAA");
}

TEST(Terminal, CtrlDWhileTheAnswerComesLeavesAfterIt) {
  Terminal terminal(chat_arguments({"-n", "200", "-t", "1"}));
  terminal.wait_for(kPrompt);
  terminal.type("one\r");
  terminal.wait_for("AAA");
  terminal.type("\x04");
  EXPECT_EQ(terminal.status(), 0);
}

TEST(Terminal, AFullContextSaysWhatToDo) {
  Terminal terminal(chat_arguments({"-n", "-1", "-c", "64"}));
  terminal.wait_for(kPrompt);
  terminal.type("one\r");
  terminal.wait_for("[cut: the context of 64 tokens is full. /undo takes this turn back, /reset forgets all");
  terminal.wait_for(kPrompt);
  terminal.type("two\r");
  terminal.wait_for("[chat] the context of 64 tokens is full");
  terminal.wait_for(kPrompt);
  terminal.type("/undo\r");
  terminal.wait_for("[taken back: one]");
  terminal.wait_for(kPrompt);
  terminal.type("a first message that is longer than all of this context has room for, by far\r");
  terminal.wait_for("Shorten it, or start with a larger -c");
}

/// A prompt that is typed needs one Ctrl-D, and one Ctrl-C ends the program.
TEST(Terminal, APromptThatIsTypedEndsWithOneKey) {
  const std::vector<std::string> arguments = {"generate", "-m", tiny_model(), "-p",           "-",
                                              "-n",       "4",  "--greedy",   "--logit-bias", "65=1000"};
  Terminal typed(arguments);
  typed.type("hi\r");
  typed.wait_for("hi");
  typed.type("\x04");
  typed.wait_for("AAAA");
  EXPECT_EQ(typed.status(), 0);
  Terminal stopped(arguments);
  stopped.type("hi\r");
  stopped.wait_for("hi\r\n");
  stopped.type("\x03");
  EXPECT_EQ(stopped.status(), 130);
}

/// A log line neither erases an answer that stands in the line, nor is written behind it.
TEST(Terminal, LogLinesStandByThemselves) {
  Terminal terminal({"generate", "-m", tiny_model(), "-p", "x", "-n", "4", "--greedy", "--logit-bias", "65=1000",
                     "--log-level", "debug"});
  EXPECT_EQ(terminal.status(), 0);
  const std::string& screen = terminal.rest();
  for (size_t at = screen.find("request ended"); at != std::string::npos; at = screen.find("request ended", at + 1)) {
    const size_t line = screen.rfind('\n', at) + 1;
    EXPECT_EQ(screen.substr(line, at - line).find('A'), std::string::npos) << screen;
  }
  EXPECT_NE(screen.find("request ended"), std::string::npos) << screen;
  EXPECT_EQ(screen.find("\x1b[K"), std::string::npos) << "nothing was drawn, so nothing is erased";
}

}  // namespace
}  // namespace bumblebee::apps_test
