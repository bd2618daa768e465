// A conversation with a model: its messages, its settings, and what was computed of it.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "commands/generation.h"
#include "options/chat_flags.h"

namespace bumblebee::cli {

class Conversation {
 public:
  /// `sampling`: the flags that `ready` was made with; /set changes a copy.
  Conversation(const CommonFlags& common, const SamplingFlags& sampling, const ChatFlags& chat, ReadyModel ready);

  /// Asks and prints the answer. A refused question leaves the conversation as it was.
  void ask(std::string question);
  /// Answers the last question anew; what Ctrl-C stops leaves the answer of before.
  void retry();
  /// Takes the last question and its answer back.
  void undo();
  void reset();

  const std::string& system() const { return system_; }
  void set_system(std::string text);
  /// "temp 0.5", a flag of sampling without its dashes; nothing shows the settings.
  void set(const std::string& setting);

  void stats() const;
  void save(const std::string& path);
  void load(const std::string& path);

  /// Whether the last answer was stopped by Ctrl-C.
  bool cancelled() const { return last_.finish_reason == text::FinishReason::cancelled; }
  static void note(const std::string& text);

 private:
  void answer(std::vector<Message> messages);
  void remark_on_end(const char* stopped) const;

  const CommonFlags& common_;
  SamplingFlags sampling_;
  ReadyModel ready_;
  ChatOptions chat_;
  std::string system_;
  bool keeps_thoughts_ = false;  // the template, of answers that begin with one
  std::vector<Message> messages_;
  std::set<std::string> files_;  // of this chat, which it may write again
  text::Result last_;
  uint64_t turns_ = 0;
};

}  // namespace bumblebee::cli
