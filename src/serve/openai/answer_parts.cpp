// Heads, usage, timings, and the small answers.
#include "serve/openai/answer_parts.h"

#include "base/error.h"
#include "serve/openai/json_out.h"

namespace bumblebee::serve {
namespace {

double per_second(int count, double ms) { return ms > 0 ? count / ms * 1e3 : 0; }

void append_field(std::string_view name, double number, std::string& out) {
  out += name;
  append_number(number, out);
}

void append_model(const ModelEntry& model, std::string& out) {
  out += R"({"id":)";
  append_string(model.id, out);
  out += R"(,"object":"model","created":)";
  append_integer(model.created, out);
  out += R"(,"owned_by":"bumblebee","root":)";
  append_string(model.root, out);
  out += R"(,"parent":)";
  if (model.parent) {
    append_string(*model.parent, out);
  } else {
    out += "null";
  }
  out += R"(,"max_model_len":)";
  append_integer(model.max_model_len, out);
  out += '}';
}

}  // namespace

std::string_view finish_name(text::FinishReason reason, int calls) {
  if (calls > 0) return "tool_calls";
  return reason == text::FinishReason::length ? "length" : "stop";
}

std::string answer_start(const AnswerHead& head, std::string_view object) {
  std::string out = R"({"id":)";
  append_string(head.id, out);
  out += cat(R"(,"object":")", object, R"(","created":)", head.created, R"(,"model":)");
  append_string(head.model, out);
  out += R"(,"system_fingerprint":)";
  append_string(head.fingerprint, out);
  return out;
}

void append_usage(const Usage& usage, std::string& out) {
  out += R"(,"usage":{"prompt_tokens":)";
  append_integer(usage.prompt, out);
  out += R"(,"completion_tokens":)";
  append_integer(usage.completion, out);
  out += R"(,"total_tokens":)";
  append_integer(int64_t(usage.prompt) + usage.completion, out);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_integer(usage.cached, out);
  out += R"(},"completion_tokens_details":{"reasoning_tokens":)";
  append_integer(usage.reasoning, out);
  out += "}}";
}

void append_timings(const Usage& usage, const AnswerTimings& timings, std::string& out) {
  const int computed = usage.prompt - usage.cached;
  out += R"(,"timings":{"cache_n":)";
  append_integer(usage.cached, out);
  out += R"(,"prompt_n":)";
  append_integer(computed, out);
  out += R"(,"predicted_n":)";
  append_integer(usage.completion, out);
  append_field(R"(,"queue_ms":)", timings.queue_ms, out);
  append_field(R"(,"prompt_ms":)", timings.prompt_ms, out);
  append_field(R"(,"prompt_per_second":)", per_second(computed, timings.prompt_ms), out);
  append_field(R"(,"predicted_ms":)", timings.predicted_ms, out);
  append_field(R"(,"predicted_per_second":)", per_second(usage.completion, timings.predicted_ms), out);
  out += '}';
}

void append_answer_end(const AnswerShape& shape, const Usage& usage, const AnswerTimings& timings, std::string& out) {
  out += ']';
  append_usage(usage, out);
  if (shape.timings) append_timings(usage, timings, out);
  out += '}';
}

void append_chunk_end(const AnswerShape& shape, const DeltaExtras& extras, std::string& out) {
  out += ']';
  if (shape.continuous_usage) {
    append_usage(extras.usage, out);
  } else if (shape.include_usage) {
    out += R"(,"usage":null)";
  }
  if (shape.timings) append_timings(extras.usage, extras.timings, out);
  out += "}\n\n";
}

void append_usage_chunk(std::string_view start, const Usage& usage, std::string& out) {
  out += start;
  out += R"(,"choices":[])";
  append_usage(usage, out);
  out += "}\n\n";
}

std::string model_answer(const ModelEntry& model) {
  std::string out;
  append_model(model, out);
  return out;
}

std::string models_answer(std::span<const ModelEntry> models) {
  std::string out = R"({"object":"list","data":[)";
  for (const ModelEntry& model : models) {
    if (out.back() != '[') out += ',';
    append_model(model, out);
  }
  out += "]}";
  return out;
}

std::string tokenize_answer(std::span<const int32_t> tokens, int max_model_len, std::span<const std::string> strings) {
  std::string out = cat(R"({"count":)", tokens.size(), R"(,"max_model_len":)", max_model_len, R"(,"tokens":)");
  append_integers(tokens, out);
  if (!strings.empty()) {
    out += R"(,"token_strs":[)";
    for (const std::string& text : strings) {
      if (out.back() != '[') out += ',';
      append_string(text, out);
    }
    out += ']';
  }
  out += '}';
  return out;
}

std::string detokenize_answer(std::string_view text) {
  std::string out = R"({"prompt":)";
  append_string(text, out);
  out += R"(,"content":)";
  append_string(text, out);
  out += '}';
  return out;
}

std::string template_answer(std::string_view prompt) {
  std::string out = R"({"prompt":)";
  append_string(prompt, out);
  out += '}';
  return out;
}

}  // namespace bumblebee::serve
