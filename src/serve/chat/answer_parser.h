// An answer's text, taken apart while it comes: thoughts, what is said, and calls of tools. What comes out does not
// depend on how the text was cut.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bumblebee::serve {

struct AnswerEvent {
  enum class Kind : uint8_t {
    content,
    reasoning,
    tool_call,  // begins: tool, id and name
    arguments,  // of the call that was begun last: a piece of its JSON, as the model wrote it
  };
  Kind kind = Kind::content;
  int tool = 0;          // index of the call in the answer
  std::string id, name;  // of a tool_call
  std::string text;      // of the others
};

/// How a model writes calls of tools.
enum class ToolFormat : uint8_t { none, hermes, llama, mistral };

struct AnswerFormat {
  bool reasoning = false;   // splits <think>...</think> (and its like) off
  bool in_thought = false;  // the prompt opened a thought
  ToolFormat tools = ToolFormat::none;
  std::vector<std::string> tool_names;  // those that the request gave; another name is no call
  bool parallel_tool_calls = true;
};

class AnswerParser {
 public:
  virtual ~AnswerParser() = default;
  /// Appends what has become certain.
  virtual void push(std::string_view text, std::vector<AnswerEvent>& events) = 0;
  /// No more text comes. What turned out to be no whole call comes as content, as it was written.
  virtual void finish(std::vector<AnswerEvent>& events) = 0;
  /// Calls that are whole: finish_reason is "tool_calls" if there are any.
  virtual int calls() const = 0;
  /// Nothing more is wanted: one call was asked for, and it is whole.
  virtual bool enough() const = 0;
};

std::unique_ptr<AnswerParser> make_answer_parser(const AnswerFormat& format);

}  // namespace bumblebee::serve
