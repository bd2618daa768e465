// Chat's line where libedit edits it: pastes, keys, Ctrl-C.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"
#include "tests/apps/terminal.h"

namespace bumblebee::apps_test {
namespace {

/// The conversation so far, as `/save` writes it.
nlohmann::json saved_messages(Terminal& terminal) {
  const Scratch scratch;
  const std::string path = (scratch / "talk.json").string();
  terminal.type("/save " + path + "\r");
  terminal.wait_for("[saved");
  return nlohmann::json::parse(read_file(path)).at("messages");
}

TEST(Terminal, APasteIsOneMessage) {
  Terminal terminal(chat_arguments());
  EXPECT_NE(terminal.wait_for(kPrompt).find("\x1b[?2004h"), std::string::npos)
      << "the terminal is asked to mark pastes";
  terminal.type("\x1b[200~first line\r/quit\r\tthird\x1b[31m\r\x1b[201~");
  terminal.wait_for("third");
  terminal.type(" and more\r");
  terminal.wait_for("AAAA");
  terminal.wait_for(kPrompt);
  const nlohmann::json messages = saved_messages(terminal);
  terminal.wait_for(kPrompt);
  terminal.type("/quit\r");
  EXPECT_EQ(terminal.status(), 0);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].at("content"), "first line\n/quit\n\tthird[31m and more") << "no control characters";
}

TEST(Terminal, KeysOfOtherTerminalsTypeNothing) {
  Terminal terminal(chat_arguments());
  terminal.wait_for(kPrompt);
  terminal.type("one two\x1b[1;5D\x1b[1;5DX\x1b[5~\x1b[6~\r");  // twice a word to the left; page up and down
  terminal.wait_for("AAAA");
  terminal.wait_for(kPrompt);
  EXPECT_EQ(saved_messages(terminal)[0].at("content"), "Xone two");
}

TEST(Terminal, CtrlCAtThePromptDropsTheLine) {
  Terminal terminal(chat_arguments());
  terminal.wait_for(kPrompt);
  terminal.type("never sent");
  terminal.wait_for("never sent");
  terminal.type("\x03");
  terminal.wait_for(kPrompt);
  terminal.type("\x03");
  terminal.wait_for("[Ctrl-D or /quit leaves]");
  terminal.wait_for(kPrompt);
  terminal.type("/retry\r");
  terminal.wait_for("nothing was asked yet");
  terminal.wait_for(kPrompt);
  terminal.type("\x04");
  EXPECT_EQ(terminal.status(), 0);
}

}  // namespace
}  // namespace bumblebee::apps_test
