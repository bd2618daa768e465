// How a model writes thoughts and calls of tools: read off its vocabulary and its chat template, or said by the
// operator.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bumblebee/tokenizer.h"
#include "serve/chat/answer_parser.h"
#include "serve/chat/thoughts.h"  // opens_thought()

namespace bumblebee::serve {

struct ModelFormats {
  ToolFormat tools = ToolFormat::none;
  bool reasoning = false;
  /// Marks of calls, or of thoughts, are special tokens: without Input::skip_special_tokens = false they never reach
  /// the text.
  bool special_tool_marks = false, special_thought_marks = false;
  /// Answers come in channels: text::Delta says where their marks are.
  bool channels = false;
  std::string tools_why, reasoning_why;  // what decided, for the line that is printed at the start
};

/// `tool_parser` is "auto", "none" or the name of a form, as to_string() gives it; `reasoning_parser` "auto", "think"
/// or "none". Throws Error(bad_request) for other words.
ModelFormats detect_formats(const Tokenizer& tokenizer, std::string_view tool_parser = "auto",
                            std::string_view reasoning_parser = "auto");

/// Whether the chat template renders an assistant's message with calls and null as its content, as clients send it.
bool takes_null_content(const Tokenizer& tokenizer);
/// Whether it renders one with calls, content and a thought, or only the thought without the content (gpt-oss).
bool takes_thought_beside_content(const Tokenizer& tokenizer);

/// Where the chat template reads the tools of a request from.
enum class ToolsPlace : uint8_t {
  variable,  // `tools`, as most do; also where that cannot be known
  message,   // the system message's `tools`, a string (Phi-4-mini)
  nowhere,   // it does not show them (DeepSeek)
};
ToolsPlace place_of_tools(const Tokenizer& tokenizer);

/// Its name for operators; "none".
std::string_view to_string(ToolFormat format);

}  // namespace bumblebee::serve
