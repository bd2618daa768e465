// The loop. An error that one request causes ends that request; an error of a step ends the requests in it; nothing
// ends the loop but the destructor.
#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "nn/infer_pass.h"

namespace bumblebee::engine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPageSize = 64;
/// Pages beyond the batch's own for the candidates of contrastive search; validate() allows 64 of them.
constexpr int kBranchPages = 64;
/// Bumblebee's default when neither max_new_tokens nor max_length is given.
constexpr int kDefaultMaxNewTokens = 20;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

SchedulerLimits make_limits(const ModelState& model, const EngineOptions& options) {
  const auto require = [](bool ok, const char* field, int value, const std::string& expected) {
    if (!ok) throw Error(ErrorCode::bad_config, "generation", cat(field, ": expected ", expected, ", got ", value));
  };
  const int context = model.info.context;
  const int length = options.sequence_length == 0 ? context : options.sequence_length;
  require(options.batch_size >= 1 && options.batch_size <= 1024, "batch_size", options.batch_size, "1 to 1024");
  require(length >= 2 && length <= context, "sequence_length", length, cat("2 to ", context, " (the model's context)"));
  require(options.prefill_chunk >= 1 && options.prefill_chunk <= 65536, "prefill_chunk", options.prefill_chunk,
          "1 to 65536");
  const int64_t pages = int64_t(options.batch_size) * ((length + kPageSize - 1) / kPageSize) + kBranchPages;
  require(pages <= (1 << 24), "batch_size", options.batch_size, "fewer sequences of this length");
  return {.batch_size = options.batch_size,
          .sequence_length = length,
          .prefill_chunk = options.prefill_chunk,
          .pages = int(pages),
          .page_size = kPageSize};
}

/// A separate exception for every request: one object shared between threads would be counted by all of them.
std::exception_ptr error_of(ErrorCode code, const std::string& what) {
  return std::make_exception_ptr(Error(code, "engine", what));
}

}  // namespace

bool Engine::Running::contrasts() const {
  return std::holds_alternative<ContrastiveSearch>(sampler.config().strategy) && !sampler.greedy();
}

Engine::Engine(std::shared_ptr<ModelState> model, const EngineOptions& options)
    : model_(std::move(model)),
      limits_(make_limits(*model_, options)),
      kv_(make_kv()),
      scheduler_(limits_),
      thread_([this] { loop(); }) {}

std::unique_ptr<KvStore> Engine::make_kv() const {
  const std::lock_guard lock(model_->compute);
  return model_->backend->make_kv(model_->kv_shape(limits_.pages, limits_.page_size));
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

int Engine::max_new(const Work& work) const {
  const int prompt = int(work.prompt.size());
  int wanted = kDefaultMaxNewTokens;
  if (work.config.max_new_tokens) wanted = *work.config.max_new_tokens;
  if (work.config.max_length) wanted = *work.config.max_length - prompt;
  return std::min(wanted, limits_.sequence_length - prompt);
}

void Engine::check(const Work& work) const {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::bad_request, "generation", what); };
  if (work.prompt.empty()) refuse("the prompt has no tokens");
  if (work.prompt.size() >= size_t(limits_.sequence_length)) {
    refuse(cat("prompt: expected fewer tokens than the sequence length of ", limits_.sequence_length, ", got ",
               work.prompt.size(), "; shorten it or raise the sequence length"));
  }
  if (work.config.max_length && *work.config.max_length <= int(work.prompt.size())) {
    refuse(cat("the prompt has ", work.prompt.size(), " tokens, but max_length is ", *work.config.max_length,
               "; raise max_length or use max_new_tokens"));
  }
  for (int32_t token : work.prompt) {
    if (token < 0 || token >= model_->info.vocab)
      refuse(cat("prompt: expected ids below the vocabulary of ", model_->info.vocab, ", got ", token));
  }
  require_ids(work.config, model_->info.vocab);
}

std::shared_ptr<Job> Engine::submit(Work work) {
  if (inside())
    throw Error(ErrorCode::bad_request, "generation", "a callback may not run a request on the serving that called it");
  check(work);
  auto job = std::make_shared<Job>(std::move(work));
  {
    const std::lock_guard lock(mutex_);
    BB_CHECK(!stopping_, "submit while the engine is being destroyed");
    incoming_.push_back(job);
  }
  wake_.notify_one();
  return job;
}

void Engine::loop() {
  while (true) {
    std::vector<std::shared_ptr<Job>> arrived;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !incoming_.empty() || !scheduler_.idle(); });
      if (stopping_) break;
      arrived.swap(incoming_);
    }
    admit(std::move(arrived));
    end_cancelled();
    step();
    for (int32_t page : scheduler_.take_freed()) dirty_pages_.insert(page);
    if (scheduler_.idle()) release_memory();
  }
  const std::lock_guard lock(mutex_);
  fail_all(ErrorCode::cancelled, "the serving was shut down");
  for (const auto& job : incoming_) job->fail(error_of(ErrorCode::cancelled, "the serving was shut down"));
}

void Engine::admit(std::vector<std::shared_ptr<Job>> jobs) {
  for (std::shared_ptr<Job>& job : jobs) {
    const RequestId id = next_id_++;
    std::exception_ptr error;
    try {
      const Work& work = job->work;
      Running running{.job = job,
                      .sampler = Sampler(work.config, work.prompt, model_->info.vocab, work.seed),
                      .contrastive = {},
                      .candidate_logprobs = {},
                      .outcome = {},
                      .max_new = max_new(work),
                      .adapters = SlotLease(*model_, job->adapters),
                      .first_step = {},
                      .first_token = {}};
      const int branches = running.contrasts() ? std::get<ContrastiveSearch>(work.config.strategy).top_k : 1;
      scheduler_.submit({.id = id,
                         .prompt = work.prompt,
                         .max_new = running.max_new,
                         .branches = branches,
                         .slot = running.adapters.slot(),
                         .identity = job->adapters ? job->adapters->id.bytes : lora::AdapterId().bytes});
      running_.emplace(id, std::move(running));
      job->adapters = nullptr;
    } catch (...) {
      error = std::current_exception();
    }
    if (error) {
      scheduler_.finish(id);
      job->adapters = nullptr;
      job->fail(std::move(error));
    }
  }
}

void Engine::end_cancelled() {
  std::vector<RequestId> cancelled;
  for (const auto& [id, running] : running_) {
    if (running.job->work.cancelled && running.job->work.cancelled()) cancelled.push_back(id);
  }
  for (RequestId id : cancelled) end(id, text::FinishReason::cancelled);
}

void Engine::step() {
  const std::optional<Step> step = scheduler_.next();
  if (!step) return;
  const auto now = Clock::now();
  for (const StepSegment& segment : step->segments) {
    Running& running = running_.at(segment.id);
    if (!running.first_step) running.first_step = now;
  }
  try {
    compute(*step);
  } catch (const Error& error) {
    return fail_step(*step, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail_step(*step, ErrorCode::out_of_memory, "not enough memory for this step");
  } catch (const std::exception& error) {
    return fail_step(*step, ErrorCode::device, error.what());
  }
  deliver(*step);
}

void Engine::compute(const Step& step) {
  const bool hidden_wanted = std::any_of(step.segments.begin(), step.segments.end(),
                                         [&](const StepSegment& s) { return running_.at(s.id).contrasts(); });
  const int wanted = int(step.batch.wanted.size());
  const std::lock_guard lock(model_->compute);
  Backend& backend = *model_->backend;
  for (const PageCopy& copy : step.copies) kv_->copy_page(copy.from, copy.to);
  backend.bind(step.batch, kv_.get());
  Tensor logits, hidden;  // [wanted, vocab] [rows, d_model]
  backend.run({.rows = step.batch.rows(), .wanted = wanted, .adapters = step.batch.has_adapters()}, [&] {
    nn::InferPass pass(backend, *kv_, step.batch, model_->adapters.get());
    if (hidden_wanted) pass.keep_hidden();
    logits = model_->model->forward(pass);
    hidden = pass.hidden();
  });
  results_.logits.resize(size_t(wanted) * size_t(model_->info.vocab));
  if (wanted > 0) backend.read(logits, results_.logits);
  results_.hidden.resize(hidden_wanted ? size_t(step.batch.rows()) * size_t(model_->info.hidden) : 0);
  if (hidden_wanted) backend.read(hidden, results_.hidden);
}

std::span<const float> Engine::logits_row(size_t wanted) const {
  const size_t vocab = size_t(model_->info.vocab);
  return std::span(results_.logits).subspan(wanted * vocab, vocab);
}

std::span<const float> Engine::hidden_rows(const Segment& segment) const {
  const size_t d = size_t(model_->info.hidden);
  return std::span(results_.hidden).subspan(size_t(segment.first) * d, size_t(segment.rows) * d);
}

void Engine::deliver(const Step& step) {
  size_t wanted = 0;
  for (size_t first = 0; first < step.segments.size();) {
    const RequestId id = step.segments[first].id;
    Group group{.first = first, .count = 0, .first_wanted = wanted, .wanted = step.segments[first].wanted};
    while (first < step.segments.size() && step.segments[first].id == id) {
      wanted += step.segments[first].wanted;
      ++group.count;
      ++first;
    }
    std::exception_ptr error;
    try {
      Running& running = running_.at(id);
      if (running.contrasts()) {
        advance_contrastive(id, running, step, group);
      } else if (group.wanted) {
        advance(id, running, logits_row(group.first_wanted));
      }
    } catch (...) {
      error = std::current_exception();
    }
    if (error) fail(id, std::move(error));
  }
}

std::optional<text::TokenLogprob> Engine::logprob(const Running& running, std::span<const float> logits,
                                                  int32_t token) const {
  const GenerationConfig& config = running.sampler.config();
  if (!config.logprobs && config.top_logprobs == 0) return std::nullopt;
  Logprobs found = logprobs_of(logits, token, config.top_logprobs);
  return text::TokenLogprob{.token = token, .logprob = found.logprob, .top = std::move(found.top)};
}

void Engine::advance(RequestId id, Running& running, std::span<const float> logits) {
  const int32_t token = running.sampler.sample(logits, scratch_);
  if (emit(id, running, token, logprob(running, logits, token))) scheduler_.proceed(id, {token});
}

void Engine::propose(RequestId id, Running& running, std::span<const float> logits) {
  running.sampler.process(logits, scratch_);
  const int top_k = std::get<ContrastiveSearch>(running.sampler.config().strategy).top_k;
  running.contrastive.candidates = running.sampler.candidates(scratch_, top_k);
  running.candidate_logprobs.clear();
  std::vector<int32_t> tokens;
  for (const auto& [token, probability] : running.contrastive.candidates) {
    tokens.push_back(token);
    running.candidate_logprobs.push_back(logprob(running, logits, token));
  }
  scheduler_.proceed(id, std::move(tokens));
}

void Engine::advance_contrastive(RequestId id, Running& running, const Step& step, const Group& group) {
  ContrastiveState& state = running.contrastive;
  if (state.candidates.empty()) {  // still the prompt
    state.remember(hidden_rows(step.batch.segments[group.first]), model_->info.hidden);
    if (group.wanted) propose(id, running, logits_row(group.first_wanted));
    return;
  }
  std::vector<std::span<const float>> hidden;
  for (size_t i = 0; i < group.count; ++i) hidden.push_back(hidden_rows(step.batch.segments[group.first + i]));
  const int chosen = state.choose(hidden, std::get<ContrastiveSearch>(running.sampler.config().strategy).alpha);
  scheduler_.choose(id, chosen);
  state.remember(hidden[size_t(chosen)], model_->info.hidden);
  const int32_t token = state.candidates[size_t(chosen)].first;
  if (emit(id, running, token, std::move(running.candidate_logprobs[size_t(chosen)]))) {
    propose(id, running, logits_row(group.first_wanted + size_t(chosen)));
  }
}

/// Adds a token to the answer; false when the request has ended with it (and `running` is gone).
bool Engine::emit(RequestId id, Running& running, int32_t token, std::optional<text::TokenLogprob> logprob) {
  if (!running.first_token) running.first_token = Clock::now();
  if (running.sampler.is_eos(token)) return end(id, text::FinishReason::stop), false;
  running.sampler.accept(token);
  running.outcome.tokens.push_back(token);
  if (logprob) running.outcome.logprobs.push_back(std::move(*logprob));
  TokenSink* sink = running.job->work.sink;
  const auto verdict = sink == nullptr ? TokenSink::Verdict::go_on : sink->take(token);
  if (verdict == TokenSink::Verdict::stop) return end(id, text::FinishReason::stop), false;
  if (verdict == TokenSink::Verdict::cancel) return end(id, text::FinishReason::cancelled), false;
  if (int(running.outcome.tokens.size()) >= running.max_new) return end(id, text::FinishReason::length), false;
  return true;
}

void Engine::end(RequestId id, text::FinishReason reason) {
  auto node = running_.extract(id);
  Running& running = node.mapped();
  const auto now = Clock::now();
  const auto first_step = running.first_step.value_or(now), first_token = running.first_token.value_or(now);
  running.outcome.reason = reason;
  running.outcome.timings = {.queue_s = seconds(first_step - running.job->called),
                             .ttft_s = seconds(first_token - running.job->called),
                             .prefill_s = seconds(first_token - first_step),
                             .decode_s = seconds(now - first_token)};
  scheduler_.finish(id);
  const std::shared_ptr<Job> job = running.job;
  Outcome outcome = std::move(running.outcome);
  node = {};  // gives the adapters back before anybody hears of the end
  job->succeed(std::move(outcome));
}

void Engine::fail(RequestId id, std::exception_ptr error) {
  scheduler_.finish(id);
  auto node = running_.extract(id);
  if (!node) return;
  const std::shared_ptr<Job> job = node.mapped().job;
  node = {};  // gives the adapters back before anybody hears of the end
  job->fail(std::move(error));
}

void Engine::fail_step(const Step& step, ErrorCode code, const std::string& what) {
  std::set<RequestId> ids;
  for (const StepSegment& segment : step.segments) ids.insert(segment.id);
  for (RequestId id : ids) fail(id, error_of(code, "the step failed: " + what));
}

void Engine::fail_all(ErrorCode code, const std::string& what) {
  while (!running_.empty()) fail(running_.begin()->first, error_of(code, what));
}

/// Nothing runs: pages that were used go back to the system.
void Engine::release_memory() {
  for (int32_t page : dirty_pages_) kv_->release_page(page);
  dirty_pages_.clear();
}

}  // namespace bumblebee::engine
