// The program at a terminal, as a person has it: what is typed, and what stands on the screen.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace bumblebee::apps_test {

constexpr const char* kPrompt = ">>> ";

/// A chat whose answers are AAAA.
std::vector<std::string> chat_arguments(std::vector<std::string> more = {});

class Terminal {
 public:
  explicit Terminal(std::vector<std::string> arguments);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys);
  /// Waits until `text` has come since the last call, and returns what came up to its end. Fails the test when the
  /// program ends before.
  std::string wait_for(const std::string& text);
  /// Waits for the program's end; its status as in Outcome.
  int status();
  /// What came since the last wait_for() until the end, after status().
  const std::string& rest() const { return unread_; }

 private:
  bool read_more();

  int screen_ = -1;
  pid_t child_ = -1;
  std::string unread_;
};

}  // namespace bumblebee::apps_test
