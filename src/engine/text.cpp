// The generation serving: inputs to tokens, tokens through the engine, answers to text. Everything per request is on
// the caller's stack; the engine is the only thing that callers share.
#include "bumblebee/text.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <utility>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/model_state.h"
#include "engine/text_sink.h"
#include "engine/tokenizer_state.h"

namespace bumblebee::text {

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

namespace detail {
namespace {

/// Requests that are computed together. Whatever happens, none outlives its listener: the destructor cancels and waits.
class Group {
 public:
  Group(engine::Engine& engine, const txt::Tokenizer& tokenizer) : engine_(engine), tokenizer_(tokenizer) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    abandoned_.store(true, std::memory_order_relaxed);
    for (Member& member : members_) {
      if (!member.job || member.waited) continue;
      try {
        member.job->wait();
      } catch (...) {  // nobody listens any more
      }
    }
  }

  /// Checks one request; nothing runs before start().
  void add(engine::Work work, CancelHandle cancel, const TextCallback* piece) {
    engine_.check(work);
    Member member{.sink = std::make_unique<engine::TextSink>(tokenizer_, work.config, piece),
                  .work = std::move(work),
                  .job = nullptr,
                  .input = 0};
    member.input = int(member.work.prompt.size());
    member.work.sink = member.sink.get();
    member.work.cancelled = [this, cancel] { return cancel.cancelled() || abandoned_.load(std::memory_order_relaxed); };
    members_.push_back(std::move(member));
  }

  void start() {
    for (Member& member : members_) member.job = engine_.submit(std::move(member.work));
  }

  std::vector<Result> wait() {
    std::vector<Result> results;
    for (Member& member : members_) results.push_back(result_of(member));
    return results;
  }

 private:
  struct Member {
    std::unique_ptr<engine::TextSink> sink;
    engine::Work work;
    std::shared_ptr<engine::Job> job;
    int input = 0;
    bool waited = false;
  };

  static Result result_of(Member& member) {
    member.waited = true;
    engine::Outcome outcome = member.job->wait();
    Result result;
    bool stopped = false;
    result.text = member.sink->finish(stopped);
    result.finish_reason = stopped ? FinishReason::stop : outcome.reason;
    result.token_summary = {.input = member.input, .output = int(outcome.tokens.size()), .padding = 0};
    result.tokens = std::move(outcome.tokens);
    result.logprobs = std::move(outcome.logprobs);
    result.timings = outcome.timings;
    return result;
  }

  engine::Engine& engine_;
  const txt::Tokenizer& tokenizer_;
  std::atomic<bool> abandoned_{false};
  std::vector<Member> members_;
};

}  // namespace

class Serving {
 public:
  Serving(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
          const GenerationOptions& options)
      : model_(model.state()),
        tokenizer_(tokenizer),
        config_(config),
        adapters_(model_->open(options.adapters)),
        engine_(model.state(), {.batch_size = options.compile.batch_size,
                                .sequence_length = options.compile.sequence_length,
                                .prefill_chunk = options.prefill_chunk}) {}

  void set_adapters(const std::vector<WeightedAdapter>& adapters) {
    auto set = model_->open(adapters);
    const std::lock_guard lock(mutex_);
    adapters_.swap(set);
  }

  std::vector<Result> run(std::span<const Input> inputs, const TextCallback* piece) {
    Group group(engine_, tokenizer_.state()->tokenizer);
    for (const Input& input : inputs) group.add(work_of(input), input.cancel, piece);
    group.start();
    return group.wait();
  }

 private:
  std::shared_ptr<const lora::AdapterSet> adapters_of(const Input& input) const {
    if (input.without_adapters && !input.adapters.empty())
      throw Error(ErrorCode::bad_request, "generation", "adapters and without_adapters exclude each other");
    if (input.without_adapters) return nullptr;
    if (!input.adapters.empty()) return model_->open(input.adapters);
    const std::lock_guard lock(mutex_);
    return adapters_;
  }

  engine::Work work_of(const Input& input) const {
    engine::Work work;
    work.adapters = adapters_of(input);
    work.config = input.config.value_or(config_);
    validate(work.config);
    work.seed = input.seed.value_or(work.config.seed);
    if (!input.messages.empty()) {
      work.prompt = tokenizer_.apply_chat_template(input.messages, input.chat).tokens;
    } else if (!input.tokens.empty()) {
      work.prompt = input.tokens;
    } else {
      work.prompt = tokenizer_.encode(input.text,
                                      {.add_special_tokens = true, .parse_control_tokens = input.parse_control_tokens});
    }
    return work;
  }

  const std::shared_ptr<engine::ModelState> model_;
  const Tokenizer tokenizer_;
  const GenerationConfig config_;
  mutable std::mutex mutex_;
  std::shared_ptr<const lora::AdapterSet> adapters_;  // of requests that name none; under mutex_
  engine::Engine engine_;
};

}  // namespace detail

Result Generation::run(const Input& input) const { return stream(input, nullptr); }

std::vector<Result> Generation::run(std::span<const Input> inputs) const {
  const std::shared_ptr<detail::Serving> serving = serving_;
  return serving->run(inputs, nullptr);
}

Result Generation::stream(const Input& input, const TextCallback& piece) const {
  const std::shared_ptr<detail::Serving> serving =
      serving_;  // lives until the answer is there, whoever drops this handle meanwhile
  return std::move(serving->run(std::span(&input, 1), &piece).front());
}

void Generation::set_adapters(const std::vector<WeightedAdapter>& adapters) const { serving_->set_adapters(adapters); }

Generation generation(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      const GenerationOptions& options) {
  validate(config);
  if (tokenizer.vocab_size() > model.info().vocab) {
    throw Error(ErrorCode::bad_config, "generation",
                cat("the tokenizer does not belong to the model: expected at most ", model.info().vocab,
                    " tokens, got ", tokenizer.vocab_size()));
  }
  return Generation(std::make_shared<detail::Serving>(model, tokenizer, config, options));
}

}  // namespace bumblebee::text
