// Answers of a chat: thoughts and calls of tools taken out of the text.
#include <algorithm>

#include "base/mark_byte.h"
#include "serve/answer.h"

namespace bumblebee::serve {

namespace {

std::string with_mark_bytes(const text::Delta& delta) {
  std::string text(delta.text);
  for (size_t i = delta.marks.size(); i-- > 0;) text.insert(delta.marks[i], 1, kMarkByte);
  return text;
}

class ChatAnswer final : public Answer {
 public:
  ChatAnswer(Place place, std::shared_ptr<const Served> served, std::shared_ptr<Call> call, const ChatRequest& request,
             std::vector<int32_t> prompt, bool in_thought, AnswerHead head)
      : Answer(place, std::move(served), std::move(call), request.shape, 1, request.input.n),
        head_(std::move(head)),
        prompt_(std::move(prompt)),
        writer_(head_, request.shape, served_->bytes),
        collected_(request.shape.stream ? 0 : n_) {
    AnswerFormat format;
    format.reasoning = served_->formats.reasoning;
    format.in_thought = in_thought;
    format.tools = request.tool_names.empty() ? ToolFormat::none : served_->formats.tools;
    format.tool_names = request.tool_names;
    format.text_parameters = request.text_parameters;
    format.parallel_tool_calls = request.parallel_tool_calls;
    format.certain_marks = served_->formats.channels;
    for (size_t i = 0; i < n_; ++i) parsers_.push_back(make_answer_parser(format));
  }

 private:
  void begin_stream(std::string& out) override {
    for (size_t i = 0; i < n_; ++i) writer_.begin(int(i), prompt_, {}, out);
  }

  bool add(size_t index, const text::Delta& delta, const DeltaExtras& extras, std::string& out) override {
    AnswerParser& parser = *parsers_[index];
    const bool channels = served_->formats.channels;
    if (channels ? delta.thought : parser.in_thought()) choices_[index].reasoning += int(delta.tokens.size());
    std::vector<AnswerEvent> events;
    parser.push(channels ? with_mark_bytes(delta) : std::string(delta.text), events);
    const bool enough = parser.enough(), over = enough || delta.finish_reason;
    if (over) parser.finish(events);
    const std::string_view reason =
        over ? finish_name(delta.finish_reason.value_or(text::FinishReason::stop), parser.calls()) : "";
    if (!shape_.stream) {
      ChatChoice& choice = collected_[index];
      choice.add(events);
      if (shape_.logprobs) choice.logprobs.insert(choice.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      if (shape_.token_ids) choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      choice.finish_reason = reason;
      return enough;
    }
    const bool extra = (shape_.logprobs && !delta.logprobs.empty()) || (shape_.token_ids && !delta.tokens.empty());
    if (!events.empty() || extra) writer_.delta(int(index), events, extras, out);
    if (over)
      writer_.finish(int(index), reason,
                     {.logprobs = {}, .tokens = {}, .usage = extras.usage, .timings = extras.timings}, out);
    return enough;
  }

  void end_stream(const Usage& usage, std::string& out) override {
    writer_.usage(usage, out);
    ChatStream::done(out);
  }

  std::string whole(const Usage& usage, const AnswerTimings& timings) override {
    return chat_answer(head_, shape_, collected_, prompt_, usage, timings, served_->bytes);
  }

  const AnswerHead head_;
  const std::vector<int32_t> prompt_;
  const ChatStream writer_;
  std::vector<std::unique_ptr<AnswerParser>> parsers_;
  std::vector<ChatChoice> collected_;
};

}  // namespace

std::shared_ptr<Answer> make_chat_answer(Answer::Place place, std::shared_ptr<const Served> served,
                                         std::shared_ptr<Call> call, const ChatRequest& request,
                                         std::vector<int32_t> prompt, bool in_thought) {
  AnswerHead head = answer_head(*served, "chatcmpl-", request.model);
  return std::make_shared<ChatAnswer>(place, std::move(served), std::move(call), request, std::move(prompt), in_thought,
                                      std::move(head));
}

}  // namespace bumblebee::serve
