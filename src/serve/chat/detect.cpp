// The template decides where it says how calls are written; the vocabulary where it does not. A template with a form of
// its own that is not read here means none: its calls stay text.
#include "serve/chat/detect.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/thought_tags.h"

namespace bumblebee::serve {
namespace {

/// What a call begins with. The first of a text is whose form it means where the template says nothing.
struct Mark {
  ToolFormat format;
  std::string_view text;
  bool decides = false;
};
constexpr std::array<Mark, 9> kMarks = {{{ToolFormat::mistral, "[TOOL_CALLS]", true},
                                         {ToolFormat::hermes, "<tool_call>", true},
                                         {ToolFormat::llama, "<|python_tag|>", true},
                                         {ToolFormat::qwen3_coder, "<tool_call>"},
                                         {ToolFormat::seed_oss, "<seed:tool_call>"},
                                         {ToolFormat::glm, "<tool_call>"},
                                         {ToolFormat::deepseek, "<｜tool▁calls▁begin｜>"},
                                         {ToolFormat::granite, "<|tool_call|>"},
                                         {ToolFormat::phi4, "<|tool_call|>"}}};

constexpr ToolFormat kForms[] = {ToolFormat::none,        ToolFormat::hermes,   ToolFormat::llama,
                                 ToolFormat::mistral,     ToolFormat::harmony,  ToolFormat::gemma4,
                                 ToolFormat::qwen3_coder, ToolFormat::seed_oss, ToolFormat::glm,
                                 ToolFormat::deepseek,    ToolFormat::granite,  ToolFormat::phi4};

/// Control tokens of channels, which the text of an answer has as <think>: harmony's and Gemma 4's.
constexpr std::array<std::array<std::string_view, 3>, 2> kChannels = {
    {{"<|channel|>", "<|start|>", "<|message|>"}, {"<|channel>", "<channel|>", "<channel|>"}}};

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

bool is_special(const Tokenizer& tokenizer, std::string_view mark) {
  const std::optional<int32_t> id = tokenizer.id_of(mark);
  return id && tokenizer.is_special(*id);
}

/// What the template says about calls.
ToolFormat of_template(std::string_view source, std::string& why) {
  const auto found = [&why](ToolFormat format, std::string_view what) {
    why = cat("the template has ", what);
    return format;
  };
  if (has(source, "[TOOL_CALLS]")) return found(ToolFormat::mistral, "[TOOL_CALLS]");
  if (has(source, "<|channel|>commentary")) return found(ToolFormat::harmony, "<|channel|>commentary");
  if (has(source, "<|tool_call>call:")) return found(ToolFormat::gemma4, "<|tool_call>call:");
  if (has(source, "<tool_call>")) {
    // Others write <tool_call> too, with XML in it instead of JSON.
    if (has(source, "<function=") && has(source, "<parameter="))
      return found(ToolFormat::qwen3_coder, "<tool_call> with <function=");
    if (has(source, "<arg_key>") && has(source, "<arg_value>"))
      return found(ToolFormat::glm, "<tool_call> with <arg_key>");
    for (const std::string_view foreign : {"<function=", "<arg_key>"}) {
      if (has(source, foreign)) return found(ToolFormat::none, cat("calls with ", foreign, ", which are not read"));
    }
    return found(ToolFormat::hermes, "<tool_call>");
  }
  if (has(source, "<seed:tool_call>") && has(source, "<parameter="))
    return found(ToolFormat::seed_oss, "<seed:tool_call> with <parameter=");
  if (has(source, "<｜tool▁calls▁begin｜>")) return found(ToolFormat::deepseek, "<｜tool▁calls▁begin｜>");
  // Phi-4-mini's may show its call too, with Granite's mark.
  if (has(source, "functools[")) return found(ToolFormat::phi4, "functools[");
  if (has(source, "<|tool|>") && has(source, "<|/tool|>")) return found(ToolFormat::phi4, "<|tool|>");
  if (has(source, "<|tool_call|>")) return found(ToolFormat::granite, "<|tool_call|>");
  if (has(source, "<|python_tag|>")) return found(ToolFormat::llama, "<|python_tag|>");
  if (has(source, "ipython") && has(source, "\"parameters\"")) return found(ToolFormat::llama, "\"parameters\"");
  if (has(source, "tool_calls")) return found(ToolFormat::none, "calls of a form that is not read");
  return ToolFormat::none;
}

ToolFormat of_model(const Tokenizer& tokenizer, std::string_view source, std::string& why) {
  const ToolFormat format = of_template(source, why);
  if (!why.empty()) return format;
  for (const Mark& mark : kMarks) {
    if (mark.decides && tokenizer.id_of(mark.text)) {
      why = cat("the vocabulary has ", mark.text);
      return mark.format;
    }
  }
  why = "neither vocabulary nor template has any";
  return ToolFormat::none;
}

/// The first of a form's tokens; nothing where there are no channels.
std::string_view channel_token(const Tokenizer& tokenizer) {
  for (const auto& tokens : kChannels) {
    const auto special = [&tokenizer](std::string_view token) { return is_special(tokenizer, token); };
    if (std::all_of(tokens.begin(), tokens.end(), special)) return tokens[0];
  }
  return {};
}

bool detect_reasoning(const Tokenizer& tokenizer, std::string_view source, std::string& why) {
  if (const std::string_view open = channel_token(tokenizer); !open.empty()) {
    why = cat("the vocabulary has ", open);
    return true;
  }
  for (const std::string_view tag : kThoughtOpens) {
    const bool in_vocabulary = tokenizer.id_of(tag).has_value();
    if (!in_vocabulary && !has(source, tag)) continue;
    why = cat(in_vocabulary ? "the vocabulary has " : "the template has ", tag);
    return true;
  }
  why = "neither vocabulary nor template has any";
  return false;
}

}  // namespace

std::string_view to_string(ToolFormat format) {
  switch (format) {
    case ToolFormat::hermes: return "hermes";
    case ToolFormat::llama: return "llama";
    case ToolFormat::mistral: return "mistral";
    case ToolFormat::harmony: return "harmony";
    case ToolFormat::gemma4: return "gemma4";
    case ToolFormat::qwen3_coder: return "qwen3_coder";
    case ToolFormat::seed_oss: return "seed_oss";
    case ToolFormat::glm: return "glm";
    case ToolFormat::deepseek: return "deepseek";
    case ToolFormat::granite: return "granite";
    case ToolFormat::phi4: return "phi4";
    case ToolFormat::none: break;
  }
  return "none";
}

ModelFormats detect_formats(const Tokenizer& tokenizer, std::string_view tool_parser,
                            std::string_view reasoning_parser) {
  ModelFormats found;
  const std::string source = tokenizer.chat_template();
  if (tool_parser == "auto") {
    found.tools = of_model(tokenizer, source, found.tools_why);
  } else {
    found.tools_why = "--tool-parser says so";
    for (const ToolFormat form : kForms) {
      if (to_string(form) == tool_parser) found.tools = form;
    }
    if (to_string(found.tools) != tool_parser) {
      std::string names;
      for (const ToolFormat form : kForms) {
        if (form != ToolFormat::none) names += cat(to_string(form), ", ");
      }
      throw Error(ErrorCode::bad_request, "--tool-parser", cat("expected auto, ", names, "or none, got ", tool_parser));
    }
  }
  if (reasoning_parser == "auto") {
    found.reasoning = detect_reasoning(tokenizer, source, found.reasoning_why);
  } else {
    found.reasoning = reasoning_parser == "think";
    found.reasoning_why = "--reasoning-parser says so";
    if (!found.reasoning && reasoning_parser != "none") {
      throw Error(ErrorCode::bad_request, "--reasoning-parser",
                  cat("expected auto, think or none, got ", reasoning_parser));
    }
  }
  found.channels = !channel_token(tokenizer).empty();
  for (const Mark& mark : kMarks) {
    if (mark.format == found.tools) found.special_tool_marks = is_special(tokenizer, mark.text);
  }
  for (const std::string_view tag : kThoughtOpens) {
    found.special_thought_marks |= found.reasoning && is_special(tokenizer, tag);
  }
  return found;
}

namespace {

/// What the template makes of a question and a call with this content, JSON as it is, and more members.
std::string render_call(const Tokenizer& tokenizer, std::string_view content, std::string_view more = {}) {
  Message question, call;
  question.role = "user";
  question.content = "?";
  call.role = "assistant";
  call.json = cat(R"({"role": "assistant", "content": )", content, more,
                  R"(, "tool_calls": [{"id": "123456789", "type": "function",
                      "function": {"name": "f", "arguments": {}}}]})");
  return tokenizer.apply_chat_template(std::vector<Message>{question, call}, {}).text;
}

}  // namespace

bool takes_null_content(const Tokenizer& tokenizer) {
  const auto nones = [&tokenizer](std::string_view content) {
    const std::string text = render_call(tokenizer, content);
    int count = 0;
    for (size_t at = text.find("None"); at != text.npos; at = text.find("None", at + 4)) ++count;
    return count;
  };
  try {
    const int with_null = nones("null");  // a template that writes it says "None", as Python does
    return with_null == 0 || with_null <= nones(R"("")");
  } catch (const Error&) {
    return false;
  }
}

bool takes_thought_beside_content(const Tokenizer& tokenizer) {
  const auto takes = [&tokenizer](std::string_view content) {
    try {
      render_call(tokenizer, content, R"(, "reasoning_content": "!", "reasoning": "!")");
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  return takes(R"(".")") || !takes(R"("")");
}

ToolsPlace place_of_tools(const Tokenizer& tokenizer) {
  const auto render = [&tokenizer](bool system, std::string_view tools, std::string_view member = {}) {
    std::vector<Message> messages(system ? 2 : 1);
    messages.front().json = cat(R"({"role": "system", "content": "!")", member, "}");
    messages.back() = {.role = "user", .content = "?", .json = {}};
    ChatOptions options;
    options.tools = tools;
    return tokenizer.apply_chat_template(messages, options).text;
  };
  bool shown = false, known = false;
  for (const bool system : {false, true}) {
    try {
      shown |=
          render(system, "") != render(system, R"([{"type": "function", "function": {"name": "f", "description": "f",
                                  "parameters": {"type": "object", "properties": {}}}}])");
      known = true;
    } catch (const Error&) {  // some take no system message
    }
  }
  if (shown || !known) return ToolsPlace::variable;
  // Only a template with a mark of its own before them: one may write out whole messages, and mean nothing by it.
  if (has(tokenizer.chat_template(), "<|tool|>")) {
    try {
      if (render(true, "") != render(true, "", R"(, "tools": "[]")")) return ToolsPlace::message;
    } catch (const Error&) {
    }
  }
  return ToolsPlace::nowhere;
}

}  // namespace bumblebee::serve
