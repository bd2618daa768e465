// The generation serving: inputs to tokens, tokens through the engine, answers to text. Everything per request is on
// the caller's stack; the engine is the only thing that callers share.
#include "bumblebee/generation.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "api/adapter_state.h"
#include "api/model_state.h"
#include "api/text_sink.h"
#include "api/tokenizer_state.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/engine.h"

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
  /// `piece`: hears the text of each member, the first one's first; empty: nobody does.
  using Listener = std::function<bool(size_t member, std::string_view piece)>;
  Group(engine::Engine& engine, const txt::Tokenizer& tokenizer, const Listener& piece)
      : engine_(engine), tokenizer_(tokenizer), piece_(piece) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    abandon();
    for (Member& member : members_) {
      while (member.id != 0 && !member.sink->wait_ended()) {
      }
    }
  }

  /// Checks one request; nothing runs before start().
  void add(engine::Request request, const Input& input) {
    engine_.check(request);
    Member member{.sink = std::make_shared<api::TextSink>(tokenizer_, request.config, request.prompt, bool(piece_)),
                  .request = std::move(request),
                  .cancel = input.cancel,
                  .progress = input.prompt_progress,
                  .id = 0,
                  .input = 0};
    member.input = int(member.request.prompt.size());
    member.request.sink = member.sink;
    members_.push_back(std::move(member));
  }

  void start() {
    for (Member& member : members_) member.id = engine_.submit(std::move(member.request));
  }

  std::vector<Result> wait() {
    std::vector<Result> results;
    for (size_t i = 0; i < members_.size(); ++i) results.push_back(result_of(i));
    return results;
  }

 private:
  struct Member {
    std::shared_ptr<api::TextSink> sink;
    engine::Request request;
    CancelHandle cancel;
    PromptProgress progress;
    engine::RequestId id = 0;  // 0: not submitted
    int input = 0;
  };

  /// What a caller has heard of an answer.
  struct Heard {
    std::string text;
    size_t tokens = 0;
    bool enough = false;
  };
  /// Hands pieces to the caller until there are no more, on the caller's thread: however long the callback takes, it
  /// holds up nobody else's tokens. What it throws, the caller gets.
  void stream(size_t index, Heard& heard) {
    Member& member = members_[index];
    while (const auto piece = member.sink->next_piece([this] { pass_on_cancels(); })) {
      pass_on_cancels();
      if (heard.enough) continue;
      heard.text += piece->text;
      heard.tokens = piece->tokens;
      stopped_ = !piece_(index, piece->text);
      if (stopped_) abandon();
      heard.enough = stopped_ || member.cancel.cancelled();
    }
  }

  void pass_on_cancels() {
    for (const Member& member : members_) {
      if (member.cancel.cancelled()) engine_.cancel(member.id);
    }
  }
  void abandon() {
    for (const Member& member : members_) engine_.cancel(member.id);
  }

  Result result_of(size_t index) {
    Member& member = members_[index];
    Heard heard;
    heard.enough = stopped_;
    if (member.progress) {
      member.sink->await_prompt([&](int done, int total) {
        pass_on_cancels();
        member.progress(done, total);
      });
    }
    if (piece_) stream(index, heard);
    while (!member.sink->wait_ended()) pass_on_cancels();
    engine::GenerationResult generated = member.sink->take_result();
    member.sink->flush();
    if (piece_) stream(index, heard);
    Result result;
    result.text = member.sink->take_text();
    result.finish_reason = member.sink->stopped() ? FinishReason::stop
                           : member.sink->cut()   ? FinishReason::length
                                                  : generated.reason;
    if (heard.enough) {  // what was computed after the caller had enough is nobody's
      result.text = std::move(heard.text);
      result.finish_reason = FinishReason::cancelled;
      generated.tokens.resize(heard.tokens);
      if (!generated.logprobs.empty()) generated.logprobs.resize(heard.tokens);
    }
    result.token_summary = {.input = member.input, .output = int(generated.tokens.size()), .reused = generated.cached};
    result.tokens = std::move(generated.tokens);
    result.logprobs = std::move(generated.logprobs);
    result.timings = generated.timings;
    return result;
  }

  engine::Engine& engine_;
  const txt::Tokenizer& tokenizer_;
  const Listener& piece_;
  bool stopped_ = false;  // the callback wants no more, of nobody
  std::vector<Member> members_;
};

/// Options of the engine and its executor, once the sequence length is one that the model and its memory have.
std::unique_ptr<engine::Engine> make_engine(const api::ModelState& model, const GenerationOptions& options) {
  const ModelInfo& info = model.info;
  engine::EngineOptions engine{.batch_size = options.limits.batch_size,
                               .sequence_length = options.limits.sequence_length,
                               .prefill_chunk = options.prefill_chunk,
                               .vocab = info.vocab,
                               .d_model = info.hidden,
                               .max_waiting = options.max_waiting,
                               .max_waiting_tokens = options.max_waiting_tokens,
                               .max_active_per_key = options.max_active_per_client,
                               .step_target_ms = options.step_target_ms,
                               .batch_timeout_ms = options.batch_timeout_ms,
                               .prefix_cache = options.prefix_cache,
                               .on_step = options.on_step};
  uint64_t bytes = options.kv_bytes > 0 ? options.kv_bytes : exec::default_cache_bytes(*model.device);
  if (engine.sequence_length == 0) {
    // The whole context, or as much of it as the memory for keys and values holds.
    const uint64_t page = info.kv_bytes(exec::kPageSize, model.options.kv_type);
    const uint64_t tokens = bytes / page * exec::kPageSize;
    engine.sequence_length = int(std::clamp<uint64_t>(tokens, exec::kPageSize, uint64_t(info.context)));
  }
  engine::check_options(engine, info.context);
  auto executor = model.make_executor({.sequences = engine.batch_size,
                                       .sequence_length = engine.sequence_length,
                                       .spare_pages = engine::kSparePages,
                                       .dtype = {},
                                       .bytes = bytes});
  const exec::MemoryReport memory = executor->memory();
  log(LogLevel::info, "memory planned: kv_bytes=", uint64_t(memory.pages) * memory.page_bytes, " of=", bytes,
      " pages=", memory.pages, " sequences=", engine.batch_size, " sequence_length=", engine.sequence_length,
      " context=", info.context, " weight_bytes=", memory.device.weights, " free_bytes=", memory.device.free,
      " adapter_limit_bytes=", model.device->adapters().use().limit);
  return std::make_unique<engine::Engine>(std::move(executor), engine);
}

}  // namespace

class Generator {
 public:
  Generator(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
            const GenerationOptions& options)
      : model_(model.state()),
        tokenizer_(tokenizer),
        config_(config),
        adapters_(options.adapters),
        engine_(make_engine(*model_, options)) {
    model_->open(adapters_);
  }

  GenerationLimits limits() const {
    const exec::MemoryReport memory = engine_->memory();
    return {.sequence_length = engine_->sequence_length(), .kv_bytes = uint64_t(memory.pages) * memory.page_bytes};
  }

  void set_adapters(const std::vector<WeightedAdapter>& adapters) {
    const auto set = model_->open(adapters);
    auto copy = adapters;
    const std::lock_guard lock(mutex_);
    adapters_.swap(copy);
  }

  std::vector<Result> run(std::span<const Input> inputs, const Group::Listener& piece) {
    Group group(*engine_, tokenizer_.state()->tokenizer, piece);
    for (const Input& input : inputs) group.add(request_of(input), input);
    group.start();
    return group.wait();
  }

 private:
  std::vector<WeightedAdapter> adapters_of(const Input& input) const {
    if (input.without_adapters && !input.adapters.empty())
      throw Error(ErrorCode::bad_request, "generation", "adapters and without_adapters exclude each other");
    if (input.without_adapters) return {};
    if (!input.adapters.empty()) {
      model_->open(input.adapters);  // refused here, where it does not fit
      return input.adapters;
    }
    const std::lock_guard lock(mutex_);
    return adapters_;
  }

  engine::Request request_of(const Input& input) const {
    engine::Request request;
    for (const WeightedAdapter& part : adapters_of(input))
      request.adapters.push_back({part.adapter.state()->adapter, part.weight});
    request.config = input.config.value_or(config_);
    validate(request.config);
    request.seed = input.seed.value_or(request.config.seed);
    if (!input.messages.empty()) {
      request.prompt = tokenizer_.apply_chat_template(input.messages, input.chat).tokens;
    } else if (!input.tokens.empty()) {
      request.prompt = input.tokens;
    } else {
      // As in mlx-lm, a text that spells its beginning gets no second one.
      const auto& bos = tokenizer_.state()->tokenizer.config().bos_token;
      const bool begins = input.parse_control_tokens && bos && !bos->empty() && input.text.starts_with(*bos);
      request.prompt = tokenizer_.encode(
          input.text, {.add_special_tokens = !begins, .parse_control_tokens = input.parse_control_tokens});
    }
    return request;
  }

  const std::shared_ptr<api::ModelState> model_;
  const Tokenizer tokenizer_;
  const GenerationConfig config_;
  mutable std::mutex mutex_;
  std::vector<WeightedAdapter> adapters_;  // of requests that name none; under mutex_
  const std::unique_ptr<engine::Engine> engine_;
};

}  // namespace detail

Result Generation::run(const Input& input) const { return stream(input, nullptr); }

std::vector<Result> Generation::run(std::span<const Input> inputs) const {
  const std::shared_ptr<detail::Generator> generator = generator_;
  return generator->run(inputs, {});
}

std::vector<Result> Generation::stream(std::span<const Input> inputs,
                                       const std::function<bool(size_t, std::string_view)>& piece) const {
  const std::shared_ptr<detail::Generator> generator = generator_;
  return generator->run(inputs, piece);
}

Result Generation::stream(const Input& input, const TextCallback& piece) const {
  const std::shared_ptr<detail::Generator> generator =
      generator_;  // lives until the answer is there, whoever drops this handle meanwhile
  detail::Group::Listener listener;
  if (piece) listener = [&piece](size_t, std::string_view text) { return piece(text); };
  return std::move(generator->run(std::span(&input, 1), listener).front());
}

GenerationLimits Generation::limits() const { return generator_->limits(); }

void Generation::set_adapters(const std::vector<WeightedAdapter>& adapters) const {
  generator_->set_adapters(adapters);
}

Generation generation(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      const GenerationOptions& options) {
  validate(config);
  const int table = model.info().vocab, ids = tokenizer.vocab_size();
  if (ids / 2 > table) {
    throw Error(ErrorCode::bad_config, "generation",
                cat("the tokenizer does not belong to the model: expected about ", table, " tokens, got ", ids));
  }
  // Tokens that were added and never trained; a prompt that has one is refused.
  if (ids > table) {
    note("tokenizer", ids, " tokens, of which the model has ", table, ": ids from ", table, " on cannot be used");
  }
  return Generation(std::make_shared<detail::Generator>(model, tokenizer, config, options));
}

}  // namespace bumblebee::text
