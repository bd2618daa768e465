// Answers that come in channels between control tokens, as gpt-oss (harmony) and Gemma 4 write them: thoughts become
// <think>...</think>, as other models write theirs, so that whoever reads a text knows one form. What says where a call
// of a tool begins and ends stays.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace bumblebee::txt {

class Channels {
 public:
  /// A piece of what becomes certain, in the order of the answer.
  struct Part {
    enum class Kind : uint8_t {
      said,    // text that the model wrote
      made,    // text that it did not write: blanks around thoughts, headers of calls
      mark,    // a mark that a control token stands behind; the same in `said` is none
      header,  // what it wrote between control tokens; no text
      token,   // the control token's own place, without text
    };
    Kind kind = Kind::said;
    std::string text = {};
  };
  using Parts = std::vector<Part>;

  /// Of a tokenizer whose control tokens have channels; nothing for others.
  static std::optional<Channels> of(const Tokenizer& tokenizer);

  /// Whether this control token is read here, and not left out of the text as others are.
  bool reads(int32_t token) const { return marks_.contains(token); }
  /// How such a token is spelled.
  const std::string& spelled(int32_t token) const { return marks_.at(token).second; }
  /// What such a token makes certain, and the same of the text between them.
  Parts mark(int32_t token);
  Parts text(std::string_view piece);
  /// The end of the answer.
  Parts flush();
  /// What comes next is a thought's.
  bool in_thought() const { return state_ == State::thought; }

 private:
  enum class Mark : uint8_t { start, channel, constrain, message, end, call, thought_end, as_it_is };
  enum class State : uint8_t { before, header, thought, said, call };
  enum class Thought : uint8_t { none, begun, written, over };

  void header(std::string_view piece, Parts& out);
  void report_header(Parts& out);
  void begin_body(Parts& out);
  void body(std::string_view piece, Parts& out, Part::Kind kind = Part::Kind::said);
  void close_thought(std::string_view blanks, Parts& out);
  void end_body(Parts& out);
  void give(Part::Kind kind, std::string_view text, Parts& out);
  std::string take_header();

  bool gemma_ = false;
  std::map<int32_t, std::pair<Mark, std::string>> marks_;
  State state_ = State::before;
  Thought thought_ = Thought::none;
  std::string header_;   // of the part that begins; before the first, what may become one
  size_t reported_ = 0;  // of it
  bool said_ = false;
  char last_ = 0;  // of what was given
};

}  // namespace bumblebee::txt
