// Where the machines put what they find: it makes the events, counts calls, names them, and decides which blanks beside
// calls are given.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "serve/chat/answer_parser.h"

namespace bumblebee::serve {

/// Blanks are held back at most so long until it is known what follows them.
inline constexpr size_t kLongestBlank = 4096;

class AnswerOutput {
 public:
  explicit AnswerOutput(const AnswerFormat& format);

  /// Where events go until the next one.
  void to(std::vector<AnswerEvent>& events) { events_ = &events; }
  void reasoning(std::string_view text) { append(AnswerEvent::Kind::reasoning, text); }
  /// Text of the answer. Blanks wait for what follows them: those beside a call are given only between content and
  /// content.
  void content(char c);
  void content(std::string_view text);
  /// No more content comes.
  void finish();

  bool knows(std::string_view tool) const;
  /// Whether this value of a tool's parameter is a text, by the tool's schema.
  bool is_text(std::string_view tool, std::string_view parameter, std::string_view value) const;
  /// A call begins; `id`, which the model gave, is used where it is fit to be one.
  void begin_call(std::string_view name, std::string_view id = {});
  void arguments(std::string_view piece) { append(AnswerEvent::Kind::arguments, piece); }
  void end_call();
  /// The call that was begun, if any, is none.
  void withdraw_call();

  int calls() const { return calls_; }
  /// How a mark, given with its kMarkByte, comes in the text.
  std::string_view as_it_comes(std::string_view mark) const { return format_.certain_marks ? mark : mark.substr(1); }
  bool enough() const { return !format_.parallel_tool_calls && calls_ > 0; }

 private:
  void append(AnswerEvent::Kind kind, std::string_view text);
  void give_blanks();
  std::string make_id();

  const AnswerFormat& format_;
  std::vector<AnswerEvent>* events_ = nullptr;
  std::string blanks_;
  bool begun_ = false;      // content was given
  bool call_last_ = false;  // a call came after it
  int begun_calls_ = 0, calls_ = 0;
  bool open_ = false;  // a call was begun and is not over
  uint64_t random_;    // the state that ids come from
  std::set<std::string> ids_;
};

}  // namespace bumblebee::serve
