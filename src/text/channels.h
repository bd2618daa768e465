// Answers that come in channels between control tokens, as gpt-oss (harmony) and Gemma 4 write them: thoughts become
// <think>...</think>, as other models write theirs, so that whoever reads a text knows one form. What says where a call
// of a tool begins and ends stays.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace bumblebee::txt {

class Channels {
 public:
  /// Of a tokenizer whose control tokens have channels; nothing for others.
  static std::optional<Channels> of(const Tokenizer& tokenizer);

  /// Whether this control token is read here, and not left out of the text as others are.
  bool reads(int32_t token) const { return marks_.contains(token); }
  /// The text that such a token makes certain, and the same of the text between them.
  std::string mark(int32_t token);
  std::string text(std::string_view piece);
  /// The end of the answer.
  std::string flush();

 private:
  enum class Mark : uint8_t { start, channel, constrain, message, end, call, thought_end, as_it_is };
  enum class State : uint8_t { before, header, thought, said, call };
  enum class Thought : uint8_t { none, begun, written, over };

  std::string header(std::string_view piece);
  std::string begin_body();
  std::string close_thought();
  void end_body();
  std::string give(std::string_view piece);

  bool gemma_ = false;
  std::map<int32_t, std::pair<Mark, std::string>> marks_;
  State state_ = State::before;
  Thought thought_ = Thought::none;
  std::string header_;  // of the part that begins; before the first, what may become one
  bool said_ = false;
  char last_ = 0;  // of what was given
};

}  // namespace bumblebee::txt
