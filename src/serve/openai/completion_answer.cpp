// Answers of /v1/completions, in pieces and whole.
#include "base/error.h"
#include "base/utf8.h"
#include "serve/openai/answer_parts.h"
#include "serve/openai/answers.h"
#include "serve/openai/json_out.h"
#include "serve/openai/logprobs_json.h"

namespace bumblebee::serve {

CompletionStream::CompletionStream(const AnswerHead& head, const AnswerShape& shape, int choices, TokenBytes bytes)
    : shape_(shape),
      bytes_(std::move(bytes)),
      start_(cat("data: ", answer_start(head, "text_completion"))),
      open_(cat(start_, R"(,"choices":[{"index":)")),
      offsets_(size_t(choices)) {}

void CompletionStream::open(int choice, std::string_view text, std::string& out) const {
  out += open_;
  append_integer(choice, out);
  out += R"(,"text":)";
  append_string(text, out);
}

void CompletionStream::close(int choice, std::string_view reason, const DeltaExtras& extras, std::string& out) {
  out += R"(,"logprobs":)";
  if (shape_.logprobs && !extras.logprobs.empty()) {
    append_text_logprobs(extras.logprobs, bytes_, offsets_[size_t(choice)], out);
  } else {
    out += "null";
  }
  if (shape_.token_ids && !extras.tokens.empty()) {
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

void CompletionStream::begin(int choice, std::string_view prompt_text, std::span<const int32_t> prompt,
                             const DeltaExtras& extras, std::string& out) {
  if (!shape_.echo && !shape_.token_ids) return;
  const std::string_view text = shape_.echo ? prompt_text : std::string_view();
  offsets_[size_t(choice)] = count_characters(text);
  open(choice, text, out);
  if (shape_.token_ids) {
    out += R"(,"prompt_token_ids":)";
    append_integers(prompt, out);
  }
  close(choice, "", extras, out);
}

void CompletionStream::delta(int choice, std::string_view text, const DeltaExtras& extras, std::string& out) {
  const bool left = (shape_.logprobs && !extras.logprobs.empty()) || (shape_.token_ids && !extras.tokens.empty());
  if (text.empty() && !left) return;
  open(choice, text, out);
  close(choice, "", extras, out);
}

void CompletionStream::finish(int choice, std::string_view reason, const DeltaExtras& extras, std::string& out) {
  open(choice, "", out);
  close(choice, reason, extras, out);
}

void CompletionStream::usage(const Usage& usage, std::string& out) const {
  if (shape_.include_usage) append_usage_chunk(start_, usage, out);
}

void CompletionStream::done(std::string& out) { out += "data: [DONE]\n\n"; }

std::string completion_answer(const AnswerHead& head, const AnswerShape& shape,
                              std::span<const CompletionChoice> choices, const Usage& usage,
                              const AnswerTimings& timings, const TokenBytes& bytes) {
  std::string out = answer_start(head, "text_completion");
  out += R"(,"choices":[)";
  int index = 0;
  for (const CompletionChoice& choice : choices) {
    if (index > 0) out += ',';
    out += R"({"index":)";
    append_integer(index++, out);
    out += R"(,"text":)";
    append_string(shape.echo ? choice.prompt_text + choice.text : choice.text, out);
    out += R"(,"logprobs":)";
    if (shape.logprobs) {
      int64_t offset = shape.echo ? count_characters(choice.prompt_text) : 0;
      append_text_logprobs(choice.logprobs, bytes, offset, out);
    } else {
      out += "null";
    }
    if (shape.token_ids) {
      out += R"(,"prompt_token_ids":)";
      append_integers(choice.prompt, out);
      out += R"(,"token_ids":)";
      append_integers(choice.tokens, out);
    }
    out += cat(R"(,"finish_reason":")", choice.finish_reason, R"("})");
  }
  append_answer_end(shape, usage, timings, out);
  return out;
}

}  // namespace bumblebee::serve
