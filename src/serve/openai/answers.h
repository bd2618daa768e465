// What the server says, as JSON and as events of a stream. Pieces of a stream are appended to a buffer: what is the
// same in all of them is written once, when the stream begins.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/serving.h"
#include "serve/chat/answer_parser.h"
#include "serve/openai/requests.h"

namespace bumblebee::serve {

/// What is the same in all parts of an answer.
struct AnswerHead {
  std::string id;     // "chatcmpl-...", "cmpl-..."
  std::string model;  // as the client named it
  std::string fingerprint;
  int64_t created = 0;  // seconds since 1970
  std::string reasoning_field = "reasoning_content";
};

struct Usage {
  int prompt = 0, completion = 0;
  int cached = 0;     // of the prompt
  int reasoning = 0;  // of the completion
};

/// Where a request's time went so far: the "timings" of timings_per_token.
struct AnswerTimings {
  double queue_ms = 0, prompt_ms = 0, predicted_ms = 0;
};

/// The bytes that a token stands for: Tokenizer::bytes_of, or token_of where it has none.
using TokenBytes = std::function<std::string(int32_t token)>;

/// "stop", "length" or "tool_calls"; calls of tools that are whole decide before the reason does.
std::string_view finish_name(text::FinishReason reason, int calls);

/// What a delta brings besides its text. Each is written only where the request asked for it.
struct DeltaExtras {
  std::span<const text::TokenLogprob> logprobs = {};
  std::span<const int32_t> tokens = {};
  Usage usage = {};            // so far
  AnswerTimings timings = {};  // so far
};

/// Events of a streamed chat. Call begin() once for each index, then delta() any number of times, then finish(), and
/// usage() and done() at the end of all.
class ChatStream {
 public:
  ChatStream(const AnswerHead& head, const AnswerShape& shape, TokenBytes bytes);

  /// The role, which comes first. `prompt` are its ids, for return_token_ids.
  void begin(int index, std::span<const int32_t> prompt, const DeltaExtras& extras, std::string& out) const;
  /// One event of the stream for each of `events`; logprobs and ids go with the first, or alone when there is none.
  void delta(int index, std::span<const AnswerEvent> events, const DeltaExtras& extras, std::string& out) const;
  void finish(int index, std::string_view reason, const DeltaExtras& extras, std::string& out) const;
  /// Nothing where the request did not ask for it.
  void usage(const Usage& usage, std::string& out) const;
  static void done(std::string& out);

 private:
  void open(int index, std::string& out) const;
  void close(bool first, std::string_view reason, const DeltaExtras& extras, std::string& out) const;

  AnswerShape shape_;
  TokenBytes bytes_;
  std::string start_, open_, reasoning_;  // the head; and up to the index; the key of a thought
};

/// Events of a streamed completion. `choice` counts over prompts and their answers: prompt · n + index.
class CompletionStream {
 public:
  CompletionStream(const AnswerHead& head, const AnswerShape& shape, int choices, TokenBytes bytes);

  /// Writes something only for echo and return_token_ids.
  void begin(int choice, std::string_view prompt_text, std::span<const int32_t> prompt, const DeltaExtras& extras,
             std::string& out);
  void delta(int choice, std::string_view text, const DeltaExtras& extras, std::string& out);
  void finish(int choice, std::string_view reason, const DeltaExtras& extras, std::string& out);
  void usage(const Usage& usage, std::string& out) const;
  static void done(std::string& out);

 private:
  void open(int choice, std::string_view text, std::string& out) const;
  void close(int choice, std::string_view reason, const DeltaExtras& extras, std::string& out);

  AnswerShape shape_;
  TokenBytes bytes_;
  std::string start_, open_;
  std::vector<int64_t> offsets_;  // characters of each choice so far
};

struct ToolCall {
  std::string id, name, arguments;
};

/// One answer of a chat that does not stream.
struct ChatChoice {
  std::string content, reasoning;
  std::vector<ToolCall> calls;
  std::string_view finish_reason;
  std::vector<text::TokenLogprob> logprobs;
  std::vector<int32_t> tokens;

  void add(std::span<const AnswerEvent> events);
};
std::string chat_answer(const AnswerHead& head, const AnswerShape& shape, std::span<const ChatChoice> choices,
                        std::span<const int32_t> prompt, const Usage& usage, const AnswerTimings& timings,
                        const TokenBytes& bytes);

/// One answer of a completion that does not stream.
struct CompletionChoice {
  std::string prompt_text;  // of which the text is the continuation; for echo
  std::string text;
  std::string_view finish_reason;
  std::vector<text::TokenLogprob> logprobs;
  std::vector<int32_t> prompt, tokens;
};
std::string completion_answer(const AnswerHead& head, const AnswerShape& shape,
                              std::span<const CompletionChoice> choices, const Usage& usage,
                              const AnswerTimings& timings, const TokenBytes& bytes);

/// The base model, or an adapter.
struct ModelEntry {
  std::string id, root;  // root: where it was loaded from, or the base's id
  std::optional<std::string> parent;
  int64_t created = 0;
  int max_model_len = 0;
};
std::string model_answer(const ModelEntry& model);
std::string models_answer(std::span<const ModelEntry> models);

/// Both vLLM's and llama.cpp's names. `strings`: the tokens' texts, where they were asked for.
std::string tokenize_answer(std::span<const int32_t> tokens, int max_model_len, std::span<const std::string> strings);
std::string detokenize_answer(std::string_view text);
std::string template_answer(std::string_view prompt);

}  // namespace bumblebee::serve
