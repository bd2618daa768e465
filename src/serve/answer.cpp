// What is the same for chats and completions: parts, usage, ends.
#include "serve/answer.h"

#include <algorithm>

#include "serve/random_id.h"

namespace bumblebee::serve {

/// Hears of one prompt's answers.
class Part final : public text::Listener {
 public:
  Part(std::shared_ptr<Answer> answer, size_t prompt) : answer_(std::move(answer)), prompt_(prompt) {}

  void on_delta(const text::Delta& delta) noexcept override {
    try {
      answer_->delta(prompt_, delta);
    } catch (...) {
      fail_with_current_exception();
    }
  }
  void on_end(std::vector<text::Result> results) noexcept override {
    try {
      answer_->ended(prompt_, std::move(results));
    } catch (...) {
      fail_with_current_exception();
    }
  }
  void on_error(const Error& error) noexcept override {
    try {
      answer_->failed(ApiError(error));
    } catch (...) {
      fail_with_current_exception();
    }
  }

 private:
  void fail_with_current_exception() noexcept {
    try {
      answer_->failed(current_api_error());
    } catch (...) {
      answer_->place_.calls.refuse_current_exception(answer_->call_);
    }
  }

  const std::shared_ptr<Answer> answer_;
  const size_t prompt_;
};

Answer::Answer(Place place, std::shared_ptr<const Served> served, std::shared_ptr<Call> call, AnswerShape shape,
               size_t prompts, int n)
    : place_(place),
      served_(std::move(served)),
      call_(std::move(call)),
      shape_(std::move(shape)),
      n_(size_t(n)),
      choices_(prompts * size_t(n)),
      inputs_(prompts),
      cached_(prompts),
      prompts_left_(prompts) {}

AnswerHead answer_head(const Served& served, const char* prefix, const std::string& asked) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {.id = prefix + random_id(),
          .model = asked.empty() ? served.name : asked,
          .fingerprint = served.fingerprint,
          .created = std::chrono::duration_cast<std::chrono::seconds>(now).count(),
          .reasoning_field = served.reasoning_field};
}

Headers Answer::stream_headers() const {
  Headers headers = call_->headers();
  headers.emplace_back("content-type", "text/event-stream; charset=utf-8");
  headers.emplace_back("cache-control", "no-cache");
  headers.emplace_back("x-accel-buffering", "no");
  return headers;
}

void Answer::open() {
  if (!shape_.stream) return;
  std::string out;
  begin_stream(out);
  call_->stream.add(out);
}

void Answer::submit(const std::vector<text::Input>& inputs) {
  std::vector<text::Request> requests;
  try {
    for (size_t i = 0; i < inputs.size(); ++i)
      requests.push_back(served_->generation.submit(inputs[i], std::make_shared<Part>(shared_from_this(), i)));
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      failed_ = true;
    }
    for (const text::Request& request : requests) request.cancel();
    throw;
  }
  for (const text::Request& request : requests) call_->running(request);
  if (!shape_.stream) return;
  call_->stream.begin(stream_headers());
  if (!call_->stream.flush(Call::Clock::now())) place_.calls.left(call_->id);
}

Usage Answer::usage() const {
  Usage sum;
  for (const int tokens : inputs_) sum.prompt += tokens;
  for (const int tokens : cached_) sum.cached += tokens;
  for (const Choice& choice : choices_) {
    sum.completion += choice.output;
    sum.reasoning += choice.reasoning;
  }
  return sum;
}

void Answer::delta(size_t prompt, const text::Delta& delta) {
  const std::lock_guard lock(mutex_);
  const size_t index = prompt * n_ + size_t(delta.index);
  Choice& choice = choices_[index];
  if (failed_ || choice.closed) return;
  // Nobody cancels what somebody waits for, but whoever ends the serving: ended() says so.
  if (delta.finish_reason == text::FinishReason::cancelled) return;
  const Call::Clock::time_point now = Call::Clock::now();
  if (choice.output > 0 && !delta.tokens.empty())
    place_.metrics.inter_token(std::chrono::duration<double>(now - choice.last).count());
  if (choice.output == 0) choice.first = now;
  choice.last = now;
  choice.output += int(delta.tokens.size());
  inputs_[prompt] = delta.input;
  if (delta.index == 0) cached_[prompt] = delta.cached;  // siblings find what the first computed
  const auto ms = [](Call::Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); };
  const DeltaExtras extras{.logprobs = delta.logprobs,
                           .tokens = delta.tokens,
                           .usage = shape_.continuous_usage || shape_.timings ? usage() : Usage{},
                           .timings = {.queue_ms = 0,  // known at the end: until then a part of the prompt's
                                       .prompt_ms = ms(choice.first - started_),
                                       .predicted_ms = ms(now - choice.first)}};
  std::string out;
  const bool enough = add(index, delta, extras, out);
  choice.closed = enough || delta.finish_reason.has_value();
  choice.enough = enough && !delta.finish_reason;
  if (shape_.stream && !out.empty()) place_.calls.add_pieces(call_, out);
  // One call was asked for, and is there: the rest would be thrown away.
  if (enough && std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.closed; }))
    call_->cancel();
}

void Answer::ended(size_t prompt, std::vector<text::Result> results) {
  bool last = false, cut = false;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    for (size_t i = 0; i < results.size(); ++i) {
      Choice& choice = choices_[prompt * n_ + i];
      if (choice.enough) results[i].finish_reason = text::FinishReason::stop;
      place_.metrics.generated(results[i]);
      // The token that ended it counts as an output, as everywhere else, and comes with no delta.
      if (results[i].stop_token && !choice.enough) ++choice.output;
    }
    const text::Result& first = results.front();
    timings_.queue_ms = std::max(timings_.queue_ms, first.timings.queue_s * 1e3);
    timings_.prompt_ms = std::max(timings_.prompt_ms, first.timings.prefill_s * 1e3);
    timings_.predicted_ms = std::max(timings_.predicted_ms, first.timings.decode_s * 1e3);
    last = --prompts_left_ == 0;
    const Usage used = usage();
    call_->note([&](CallFacts& facts) {
      facts.input = used.prompt;
      facts.cached = used.cached;
      facts.output = used.completion;
      facts.finish = text::to_string(first.finish_reason);
      facts.queue_s = first.timings.queue_s;
      facts.ttft_s = first.timings.ttft_s;
    });
    const auto own = choices_.begin() + std::ptrdiff_t(prompt * n_);
    cut = std::any_of(own, own + std::ptrdiff_t(n_), [](const Choice& c) { return !c.closed; });
    failed_ = cut;
  }
  if (cut)
    place_.calls.refuse(call_, ApiError(Refusal::draining, "the server is shutting down; this answer is not complete"));
  else if (last)
    finish();
}

void Answer::finish() {
  if (shape_.stream) {
    std::string out;
    end_stream(usage(), out);
    call_->stream.begin(stream_headers());  // it may be over before submit() is
    return place_.calls.end_stream(call_, out);
  }
  // The text of a long answer with logprobs takes milliseconds: not on the thread that everybody's tokens come from.
  place_.workers.finish([self = shared_from_this()] {
    try {
      HttpResponse response{200, {{"content-type", "application/json"}}, self->whole(self->usage(), self->timings_)};
      self->place_.calls.respond(self->call_, std::move(response));
    } catch (...) {
      self->place_.calls.refuse_current_exception(self->call_);
    }
  });
}

void Answer::failed(const ApiError& error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
  }
  place_.calls.refuse(call_, error);
}

}  // namespace bumblebee::serve
