// Answers while they are made: what the serving says of each, turned into events of a stream or collected for a whole
// answer.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/calls.h"
#include "serve/served.h"
#include "serve/workers.h"

namespace bumblebee::serve {

/// All answers to one request: n for each of its prompts. Choice prompt · n + index is one of them.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  /// What it needs of the server, which outlives it.
  struct Place {
    Calls& calls;
    Workers& workers;
    Metrics& metrics;
  };

  Answer(Place place, std::shared_ptr<const Served> served, std::shared_ptr<Call> call, AnswerShape shape,
         size_t prompts, int n);
  virtual ~Answer() = default;
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  /// Collects what a stream begins with; it goes out when the request is accepted.
  void open();
  /// Submits all inputs, or none: throws what submit() throws, and then nothing is heard of any.
  void submit(const std::vector<text::Input>& inputs);

 protected:
  struct Choice {
    int output = 0, reasoning = 0;            // tokens
    bool closed = false;                      // nothing more is heard of it
    bool enough = false;                      // the server closed it: what its client was told is a stop
    Call::Clock::time_point first{}, last{};  // when tokens came
  };

  virtual void begin_stream(std::string& out) = 0;
  /// Returns whether nothing more is wanted of this choice.
  virtual bool add(size_t choice, const text::Delta& delta, const DeltaExtras& extras, std::string& out) = 0;
  virtual void end_stream(const Usage& usage, std::string& out) = 0;
  virtual std::string whole(const Usage& usage, const AnswerTimings& timings) = 0;

  Usage usage() const;
  const Place place_;
  const std::shared_ptr<const Served> served_;
  const std::shared_ptr<Call> call_;
  const AnswerShape shape_;
  const size_t n_;
  std::vector<Choice> choices_;

 private:
  friend class Part;
  void delta(size_t prompt, const text::Delta& delta);
  void ended(size_t prompt, std::vector<text::Result> results);
  void failed(const ApiError& error) noexcept;
  void finish();
  Headers stream_headers() const;

  std::mutex mutex_;  // parts of different prompts come on different threads
  std::vector<int> inputs_, cached_;
  size_t prompts_left_;
  bool failed_ = false;
  AnswerTimings timings_;
  Call::Clock::time_point started_ = Call::Clock::now();
};

/// What all parts of one answer begin with. `asked`: the model as the request named it.
AnswerHead answer_head(const Served& served, const char* prefix, const std::string& asked);

/// `prompt`: the ids, for an answer that repeats them; `in_thought`: the prompt opened a thought.
std::shared_ptr<Answer> make_chat_answer(Answer::Place place, std::shared_ptr<const Served> served,
                                         std::shared_ptr<Call> call, const ChatRequest& request,
                                         std::vector<int32_t> prompt, bool in_thought);
/// `prompts`: their ids, where the answer repeats them; else empty.
std::shared_ptr<Answer> make_completion_answer(Answer::Place place, std::shared_ptr<const Served> served,
                                               std::shared_ptr<Call> call, const CompletionRequest& request,
                                               std::vector<std::vector<int32_t>> prompts);

}  // namespace bumblebee::serve
