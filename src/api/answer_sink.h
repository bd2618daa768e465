// What the engine tells of one answer: tokens become text here, on the serving's threads, and go to the request that
// the answer belongs to.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/answer_text.h"
#include "api/request_state.h"
#include "engine/request.h"

namespace bumblebee::api {

class AnswerSink final : public engine::TokenSink {
 public:
  AnswerSink(std::shared_ptr<text::detail::RequestState> request, int index, uint64_t seed, int prompt, AnswerText text)
      : request_(std::move(request)), index_(index), seed_(seed), prompt_(prompt), text_(std::move(text)) {}

  StopReason take(int32_t token, const text::TokenLogprob* logprob) override {
    const std::string piece = text_.push(token);
    add(piece);
    request_->tell({.index = index_,
                    .text = piece,
                    .tokens = {&token, 1},
                    .logprobs = {logprob, size_t(logprob != nullptr)},
                    .input = prompt_,
                    .cached = cached_,
                    .finish_reason = {},
                    .marks = text_.marks(),
                    .thought = text_.in_thought()});
    if (text_.stopped()) return StopReason::stop;
    if (text_.full()) return StopReason::length;
    return request_->cancelled() ? StopReason::cancelled : StopReason::none;
  }
  bool must_go_on() override { return text_.too_short(); }
  void prompt_computed(int computed, int cached) noexcept override {
    cached_ = cached;
    request_->prompt_computed(computed);
  }
  void ended(engine::GenerationResult generated) noexcept override {
    try {
      const std::string rest = text_.flush();
      request_->end(index_, result_of(std::move(generated), rest), rest, text_.marks(), cached_);
    } catch (...) {
      request_->fail(std::current_exception());
    }
  }
  void failed(std::exception_ptr error) noexcept override { request_->fail(std::move(error)); }

 private:
  void add(const std::string& piece) {
    for (const size_t mark : text_.marks()) marks_.push_back(whole_.size() + mark);
    whole_ += piece;
  }

  text::Result result_of(engine::GenerationResult generated, const std::string& rest) {
    text::Result result;
    add(rest);
    result.text = std::move(whole_);
    if (text_.has_marks()) result.marks = std::move(marks_);
    result.finish_reason = text_.stopped() ? text::FinishReason::stop
                           : text_.full()  ? text::FinishReason::length
                                           : generated.reason;
    result.token_summary = {.input = prompt_, .output = int(generated.tokens.size()), .cached = generated.cached};
    result.tokens = std::move(generated.tokens);
    result.logprobs = std::move(generated.logprobs);
    result.timings = generated.timings;
    result.seed = seed_;
    result.stop_token = generated.stop_token;
    if (text_.stopped()) result.stop_string = text_.stop_string();
    return result;
  }

  const std::shared_ptr<text::detail::RequestState> request_;
  const int index_;
  const uint64_t seed_;
  const int prompt_;  // tokens
  AnswerText text_;
  int cached_ = 0;
  std::string whole_;
  std::vector<size_t> marks_;  // in it
};

}  // namespace bumblebee::api
