// An answer's text, taken apart while it comes: thoughts, what is said, and calls of tools. What comes out does not
// depend on how the text was cut. docs/internals/serving-answers.md has the forms that are read and every rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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
    withdrawn,  // the call that was begun last was none after all: whoever collects drops it. Its text follows as
                // content
  };
  Kind kind = Kind::content;
  int tool = 0;                    // index of the call in the answer; one that was withdrawn keeps its own
  std::string id = {}, name = {};  // of a tool_call
  std::string text = {};           // of content, reasoning and arguments

  friend bool operator==(const AnswerEvent&, const AnswerEvent&) = default;
};

/// How a model writes calls of tools.
enum class ToolFormat : uint8_t {
  none,
  hermes,
  llama,
  mistral,
  harmony,
  gemma4,
  qwen3_coder,
  seed_oss,
  glm,
  deepseek,
  granite,
  phi4,
};

/// Parameters of tools that are texts, and whether they may be null: tool, parameter, nullable.
using TextParameters = std::map<std::string, std::map<std::string, bool, std::less<>>, std::less<>>;

struct AnswerFormat {
  bool reasoning = false;   // splits <think>...</think> (and its like) off
  bool in_thought = false;  // the prompt opened a thought
  ToolFormat tools = ToolFormat::none;
  std::vector<std::string> tool_names = {};  // those that the request gave; another name is no call
  TextParameters text_parameters = {};       // for forms that do not say it themselves
  bool parallel_tool_calls = true;
  // The model's marks are control tokens: of thoughts, and of calls in harmony's and Gemma's form, only what comes
  // after kMarkByte is one (base/mark_byte.h), which is no text.
  bool certain_marks = false;
  std::optional<uint64_t> id_seed = {};  // the ids of calls follow from it; absent: random ones
};

/// A call that takes more than this many bytes is none, nor is one nested deeper than kCallDepth.
inline constexpr size_t kLongestCall = size_t{1} << 20;
inline constexpr int kCallDepth = 64;

class AnswerParser {
 public:
  virtual ~AnswerParser() = default;
  /// Appends what has become certain. Pieces of whole characters give events of whole characters.
  virtual void push(std::string_view text, std::vector<AnswerEvent>& events) = 0;
  /// No more text comes. What turned out to be no whole call comes as content, as it was written.
  virtual void finish(std::vector<AnswerEvent>& events) = 0;
  /// Calls that are whole: finish_reason is "tool_calls" if there are any.
  virtual int calls() const = 0;
  /// Nothing more is wanted: one call was asked for, and it is whole. What is pushed then is ignored.
  virtual bool enough() const = 0;
  /// The text so far ends within a thought: what comes next counts among the tokens of reasoning.
  virtual bool in_thought() const = 0;
};

std::unique_ptr<AnswerParser> make_answer_parser(const AnswerFormat& format);

}  // namespace bumblebee::serve
