// Answers of a completion: the text as it is, for each of its prompts.
#include "serve/answer.h"

namespace bumblebee::serve {

namespace {

class CompletionAnswer final : public Answer {
 public:
  CompletionAnswer(Place place, std::shared_ptr<const Served> served, std::shared_ptr<Call> call,
                   const CompletionRequest& request, std::vector<std::vector<int32_t>> prompts, AnswerHead head)
      : Answer(place, std::move(served), std::move(call), request.shape, request.inputs.size(),
               request.inputs.front().n),
        head_(std::move(head)),
        prompts_(std::move(prompts)),
        writer_(head_, request.shape, int(choices_.size()), served_->bytes),
        collected_(choices_.size()) {
    prompts_.resize(request.inputs.size());
    for (size_t i = 0; i < collected_.size(); ++i) {
      const text::Input& input = request.inputs[i / n_];
      CompletionChoice& choice = collected_[i];
      if (shape_.echo) choice.prompt_text = input.text;
      if (shape_.token_ids) choice.prompt = prompts_[i / n_];
    }
  }

 private:
  void begin_stream(std::string& out) override {
    for (size_t i = 0; i < collected_.size(); ++i)
      writer_.begin(int(i), collected_[i].prompt_text, collected_[i].prompt, {}, out);
  }

  bool add(size_t index, const text::Delta& delta, const DeltaExtras& extras, std::string& out) override {
    const std::string_view reason = delta.finish_reason ? finish_name(*delta.finish_reason, 0) : "";
    if (!shape_.stream) {
      CompletionChoice& choice = collected_[index];
      choice.text += delta.text;
      if (shape_.logprobs) choice.logprobs.insert(choice.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      if (shape_.token_ids) choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      choice.finish_reason = reason;
      return false;
    }
    const bool extra = (shape_.logprobs && !delta.logprobs.empty()) || (shape_.token_ids && !delta.tokens.empty());
    if (!delta.text.empty() || extra) writer_.delta(int(index), delta.text, extras, out);
    if (delta.finish_reason)
      writer_.finish(int(index), reason,
                     {.logprobs = {}, .tokens = {}, .usage = extras.usage, .timings = extras.timings}, out);
    return false;
  }

  void end_stream(const Usage& usage, std::string& out) override {
    writer_.usage(usage, out);
    CompletionStream::done(out);
  }

  std::string whole(const Usage& usage, const AnswerTimings& timings) override {
    return completion_answer(head_, shape_, collected_, usage, timings, served_->bytes);
  }

  const AnswerHead head_;
  std::vector<std::vector<int32_t>> prompts_;
  CompletionStream writer_;
  std::vector<CompletionChoice> collected_;
};

}  // namespace

std::shared_ptr<Answer> make_completion_answer(Answer::Place place, std::shared_ptr<const Served> served,
                                               std::shared_ptr<Call> call, const CompletionRequest& request,
                                               std::vector<std::vector<int32_t>> prompts) {
  AnswerHead head = answer_head(*served, "cmpl-", request.model);
  return std::make_shared<CompletionAnswer>(place, std::move(served), std::move(call), request, std::move(prompts),
                                            std::move(head));
}

}  // namespace bumblebee::serve
