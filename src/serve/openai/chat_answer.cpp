// Answers of /v1/chat/completions, in pieces and whole.
#include <algorithm>

#include "base/error.h"
#include "serve/openai/answer_parts.h"
#include "serve/openai/answers.h"
#include "serve/openai/json_out.h"
#include "serve/openai/logprobs_json.h"

namespace bumblebee::serve {
namespace {

constexpr std::string_view kEvent = "data: ";

std::string key_of(std::string_view name) {
  std::string out;
  append_string(name, out);
  out += ':';
  return out;
}

void append_call_start(const AnswerEvent& event, std::string& out) {
  out += R"("tool_calls":[{"index":)";
  append_integer(event.tool, out);
  out += R"(,"id":)";
  append_string(event.id, out);
  out += R"(,"type":"function","function":{"name":)";
  append_string(event.name, out);
  out += R"(,"arguments":""}}])";
}

void append_arguments(const AnswerEvent& event, std::string& out) {
  out += R"("tool_calls":[{"index":)";
  append_integer(event.tool, out);
  out += R"(,"function":{"arguments":)";
  append_string(event.text, out);
  out += "}}]";
}

void append_message(const ChatChoice& choice, std::string_view reasoning_key, std::string& out) {
  out += R"({"role":"assistant","content":)";
  if (choice.content.empty() && !choice.calls.empty()) {
    out += "null";
  } else {
    append_string(choice.content, out);
  }
  out += R"(,"refusal":null)";
  if (!choice.reasoning.empty()) {
    out += ',';
    out += reasoning_key;
    append_string(choice.reasoning, out);
  }
  if (!choice.calls.empty()) {
    out += R"(,"tool_calls":[)";
    for (const ToolCall& call : choice.calls) {
      if (out.back() != '[') out += ',';
      out += R"({"id":)";
      append_string(call.id, out);
      out += R"(,"type":"function","function":{"name":)";
      append_string(call.name, out);
      out += R"(,"arguments":)";
      append_string(call.arguments, out);
      out += "}}";
    }
    out += ']';
  }
  out += '}';
}

}  // namespace

ChatStream::ChatStream(const AnswerHead& head, const AnswerShape& shape, TokenBytes bytes)
    : shape_(shape),
      bytes_(std::move(bytes)),
      start_(cat(kEvent, answer_start(head, "chat.completion.chunk"))),
      open_(cat(start_, R"(,"choices":[{"index":)")),
      reasoning_(key_of(head.reasoning_field)) {}

void ChatStream::open(int index, std::string& out) const {
  out += open_;
  append_integer(index, out);
  out += R"(,"delta":{)";
}

void ChatStream::close(bool first, std::string_view reason, const DeltaExtras& extras, std::string& out) const {
  out += R"(},"logprobs":)";
  if (shape_.logprobs && first && !extras.logprobs.empty()) {
    append_chat_logprobs(extras.logprobs, bytes_, out);
  } else {
    out += "null";
  }
  if (shape_.token_ids && first && !extras.tokens.empty()) {
    out += R"(,"token_ids":)";
    append_integers(extras.tokens, out);
  }
  out += R"(,"finish_reason":)";
  if (reason.empty()) {
    out += "null}";
  } else {
    out += '"';
    out += reason;
    out += "\"}";
  }
  append_chunk_end(shape_, extras, out);
}

void ChatStream::begin(int index, std::span<const int32_t> prompt, const DeltaExtras& extras, std::string& out) const {
  if (shape_.token_ids) {
    out += start_;
    out += R"(,"prompt_token_ids":)";
    append_integers(prompt, out);
    out += std::string_view(open_).substr(start_.size());
    append_integer(index, out);
    out += R"(,"delta":{)";
  } else {
    open(index, out);
  }
  out += R"("role":"assistant","content":"")";
  close(false, "", extras, out);
}

void ChatStream::delta(int index, std::span<const AnswerEvent> events, const DeltaExtras& extras,
                       std::string& out) const {
  bool first = true;
  for (const AnswerEvent& event : events) {
    if (event.kind == AnswerEvent::Kind::withdrawn) continue;
    open(index, out);
    switch (event.kind) {
      case AnswerEvent::Kind::content:
        out += R"("content":)";
        append_string(event.text, out);
        break;
      case AnswerEvent::Kind::reasoning:
        out += reasoning_;
        append_string(event.text, out);
        break;
      case AnswerEvent::Kind::tool_call: append_call_start(event, out); break;
      case AnswerEvent::Kind::arguments: append_arguments(event, out); break;
      case AnswerEvent::Kind::withdrawn: break;
    }
    close(first, "", extras, out);
    first = false;
  }
  const bool left = (shape_.logprobs && !extras.logprobs.empty()) || (shape_.token_ids && !extras.tokens.empty());
  if (first && left) {
    open(index, out);
    close(true, "", extras, out);
  }
}

void ChatStream::finish(int index, std::string_view reason, const DeltaExtras& extras, std::string& out) const {
  open(index, out);
  close(true, reason, extras, out);
}

void ChatStream::usage(const Usage& usage, std::string& out) const {
  if (shape_.include_usage) append_usage_chunk(start_, usage, out);
}

void ChatStream::done(std::string& out) { out += "data: [DONE]\n\n"; }

void ChatChoice::add(std::span<const AnswerEvent> events) {
  for (const AnswerEvent& event : events) {
    switch (event.kind) {
      case AnswerEvent::Kind::content: content += event.text; break;
      case AnswerEvent::Kind::reasoning: reasoning += event.text; break;
      case AnswerEvent::Kind::tool_call: calls.push_back({event.id, event.name, {}}); break;
      case AnswerEvent::Kind::arguments: calls.back().arguments += event.text; break;
      case AnswerEvent::Kind::withdrawn: calls.pop_back(); break;
    }
  }
}

std::string chat_answer(const AnswerHead& head, const AnswerShape& shape, std::span<const ChatChoice> choices,
                        std::span<const int32_t> prompt, const Usage& usage, const AnswerTimings& timings,
                        const TokenBytes& bytes) {
  std::string out = answer_start(head, "chat.completion");
  if (shape.token_ids) {
    out += R"(,"prompt_token_ids":)";
    append_integers(prompt, out);
  }
  out += R"(,"choices":[)";
  const std::string reasoning = key_of(head.reasoning_field);
  int index = 0;
  for (const ChatChoice& choice : choices) {
    if (index > 0) out += ',';
    out += R"({"index":)";
    append_integer(index++, out);
    out += R"(,"message":)";
    append_message(choice, reasoning, out);
    out += R"(,"logprobs":)";
    if (shape.logprobs) {
      append_chat_logprobs(choice.logprobs, bytes, out);
    } else {
      out += "null";
    }
    if (shape.token_ids) {
      out += R"(,"token_ids":)";
      append_integers(choice.tokens, out);
    }
    out += cat(R"(,"finish_reason":")", choice.finish_reason, R"("})");
  }
  append_answer_end(shape, usage, timings, out);
  return out;
}

}  // namespace bumblebee::serve
