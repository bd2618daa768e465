// The loop. An error that one request causes ends that request; an error of a step ends the requests in it; a shortage
// of memory in the loop itself ends the active requests. Nothing ends the loop but the destructor.
#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace bumblebee::engine {
namespace {

/// Bumblebee's default when neither max_new_tokens nor max_length is given.
constexpr int kDefaultMaxNewTokens = 20;

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

/// A separate exception for every request: one object shared between threads would be counted by all of them.
std::exception_ptr error_of(ErrorCode code, const std::string& what) {
  return std::make_exception_ptr(Error(code, "engine", what));
}

/// The logprobs of one logit row, where its request asks for them.
std::optional<text::TokenLogprob> logprob_of(const GenerationConfig& config, const exec::StepResult& result,
                                             size_t logit_row) {
  if (!config.logprobs && config.top_logprobs == 0) return std::nullopt;
  const size_t tops = size_t(result.tops);
  const auto logprobs = result.logprobs.subspan(logit_row * (1 + tops), 1 + tops);
  text::TokenLogprob found{.token = result.ids[logit_row], .logprob = logprobs.front(), .top = {}};
  for (size_t i = 0; i < size_t(config.top_logprobs); ++i)
    if (const int32_t id = result.top_ids[logit_row * tops + i]; id >= 0) found.top.emplace_back(id, logprobs[1 + i]);
  return found;
}

}  // namespace

void check_options(const EngineOptions& options, int context) {
  const auto require = [](bool ok, const char* field, int value, const std::string& expected) {
    if (!ok) throw Error(ErrorCode::bad_request, "generation", cat(field, ": expected ", expected, ", got ", value));
  };
  require(options.batch_size >= 1 && options.batch_size <= 1024, "batch_size", options.batch_size, "1 to 1024");
  require(options.sequence_length >= 2 && options.sequence_length <= context, "sequence_length",
          options.sequence_length, cat("2 to ", context, " (the model's context)"));
  require(options.prefill_chunk >= 1 && options.prefill_chunk <= 65536, "prefill_chunk", options.prefill_chunk,
          "1 to 65536");
}

Engine::Engine(std::unique_ptr<exec::Executor> executor, const EngineOptions& options)
    : options_(options),
      executor_(std::move(executor)),
      limits_{.batch_size = options.batch_size,
              .sequence_length = options.sequence_length,
              .prefill_chunk = options.prefill_chunk,
              .pages = executor_->pages(),
              .page_size = executor_->page_size()},
      scheduler_(limits_),
      thread_([this] { loop(); }) {}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

int Engine::max_new(const Request& request) const {
  const int prompt = int(request.prompt.size());
  int wanted = kDefaultMaxNewTokens;
  if (request.config.max_new_tokens) wanted = *request.config.max_new_tokens;
  if (request.config.max_length) wanted = *request.config.max_length - prompt;
  return std::min(wanted, limits_.sequence_length - prompt);
}

void Engine::check(const Request& request) const {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::bad_request, "generation", what); };
  if (request.prompt.empty()) refuse("the prompt has no tokens");
  if (request.prompt.size() >= size_t(limits_.sequence_length)) {
    throw TooLong("generation",
                  cat("prompt: expected fewer tokens than the sequence length of ", limits_.sequence_length, ", got ",
                      request.prompt.size(), "; shorten it or raise the sequence length"),
                  int64_t(request.prompt.size()), limits_.sequence_length);
  }
  if (request.config.max_length && *request.config.max_length <= int(request.prompt.size())) {
    refuse(cat("the prompt has ", request.prompt.size(), " tokens, but max_length is ", *request.config.max_length,
               "; raise max_length or use max_new_tokens"));
  }
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= options_.vocab)
      refuse(cat("prompt: expected ids below the vocabulary of ", options_.vocab, ", got ", token));
  }
  require_ids(request.config, options_.vocab);
}

void Engine::require_room(int requests) const {
  const std::lock_guard lock(mutex_);
  if (draining_) throw Error(ErrorCode::draining, "engine", "the serving is shutting down: it takes nothing new");
  if (int64_t(incoming_.size()) + requests > options_.max_waiting) {
    throw Error(ErrorCode::busy, "engine",
                cat("the queue is full: expected at most ", options_.max_waiting, " waiting requests"));
  }
}

RequestId Engine::submit(Request request) {
  std::vector<Request> one;
  one.push_back(std::move(request));
  return submit(std::move(one)).front();
}

std::vector<RequestId> Engine::submit(std::vector<Request> requests) {
  require_room(int(requests.size()));
  for (const Request& request : requests) {
    BB_CHECK(request.sink != nullptr);
    check(request);
  }
  std::vector<RequestId> ids;
  std::vector<std::shared_ptr<Job>> jobs;
  ids.reserve(requests.size());
  for (Request& request : requests) jobs.push_back(std::make_shared<Job>(0, std::move(request)));
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw Error(ErrorCode::cancelled, "engine", "the serving was shut down");
    incoming_.reserve(incoming_.size() + jobs.size());
    alive_.reserve(alive_.size() + jobs.size());
    cancelled_.reserve(alive_.size() + jobs.size());
    for (const auto& job : jobs) {
      job->id = next_id_++;
      ids.push_back(job->id);
      alive_.emplace(job->id, false);
      incoming_.push_back(job);
    }
  }
  wake_.notify_one();
  return ids;
}

void Engine::cancel(RequestId id) noexcept {
  {
    const std::lock_guard lock(mutex_);
    const auto found = alive_.find(id);
    if (found == alive_.end() || found->second) return;
    found->second = true;
    cancelled_.push_back(id);
  }
  wake_.notify_one();
}

text::ServingStats Engine::stats() const { return {}; }

bool Engine::drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto over = [this] { return alive_.empty(); };
  if (ended_.wait_for(lock, timeout, over)) return true;
  for (auto& [id, cancelled] : alive_) {
    if (!std::exchange(cancelled, true)) cancelled_.push_back(id);
  }
  wake_.notify_one();
  ended_.wait(lock, over);
  return false;
}

void Engine::forget(RequestId id) noexcept {
  const std::lock_guard lock(mutex_);
  alive_.erase(id);
  if (alive_.empty()) ended_.notify_all();
}

void Engine::tell_end(const Job& job, GenerationResult result) noexcept {
  forget(job.id);
  job.request.sink->ended(std::move(result));
}

void Engine::tell_failure(const Job& job, std::exception_ptr error) noexcept {
  forget(job.id);
  job.request.sink->failed(std::move(error));
}

void Engine::loop() noexcept {
  std::vector<std::shared_ptr<Job>> arrived;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !incoming_.empty() || !cancelled_.empty() || !scheduler_.idle(); });
      if (stopping_) break;
      arrived.swap(incoming_);
    }
    try {
      iterate(arrived);
    } catch (...) {  // only memory can be missing here: everything else is a request's own affair
      log(LogLevel::error, "memory is short: requests=", active_.size() + arrived.size());
      for (const auto& job : arrived) tell_failure(*job, job->out_of_memory);
      arrived.clear();
      shed();
    }
  }
  while (!active_.empty()) fail(active_.begin()->first, nullptr);
  while (!waiting_.empty()) fail(waiting_.begin()->first, nullptr);
  for (const auto& job : incoming_) tell_failure(*job, job->out_of_memory);
}

void Engine::iterate(std::vector<std::shared_ptr<Job>>& arrived) {
  for (; !arrived.empty(); arrived.erase(arrived.begin())) enqueue(arrived.front());
  end_cancelled();
  activate();
  step();
  if (scheduler_.idle()) release_memory();
}

void Engine::enqueue(const std::shared_ptr<Job>& job) {
  const RequestId id = job->id;
  Request& request = job->request;
  const bool contrastive = ContrastiveSearcher::make(request.config, options_.d_model).has_value();
  Sequence sequence;
  sequence.id = id;
  sequence.max_new = max_new(request);
  sequence.alternatives = contrastive ? std::get<ContrastiveSearch>(request.config.strategy).top_k : 1;
  sequence.tokens = std::move(request.prompt);
  std::exception_ptr refusal;
  try {
    scheduler_.submit(std::move(sequence));
  } catch (const Error&) {
    refusal = std::current_exception();
  }
  if (refusal) return tell_failure(*job, std::move(refusal));
  try {
    waiting_.emplace(id, job);
  } catch (...) {
    scheduler_.finish(id);
    throw;
  }
}

void Engine::activate() {
  for (const RequestId id : scheduler_.activate()) {
    const std::shared_ptr<Job> job = waiting_.at(id);
    Sequence& sequence = scheduler_.at(id);
    std::exception_ptr error;
    try {
      const auto [place, fresh] = active_.try_emplace(
          id, job, Sampler(job->request.config, sequence.tokens, options_.vocab, job->request.seed));
      waiting_.erase(id);
      place->second.contrastive = ContrastiveSearcher::make(job->request.config, options_.d_model);
      sequence.adapters = executor_->open(job->request.adapters);
      place->second.slot = executor_->slot(sequence.adapters);
      sequence.slot = place->second.slot.slot();
      place->second.sampler.ban_end(job->request.sink->must_go_on());
      job->request.sink->prompt_computed(sequence.computed, sequence.cached);
    } catch (...) {
      error = std::current_exception();
    }
    if (error) fail(id, std::move(error));
  }
}

void Engine::end_cancelled() {
  std::vector<RequestId> cancelled;
  {
    const std::lock_guard lock(mutex_);
    cancelled.assign(cancelled_.begin(), cancelled_.end());
    cancelled_.clear();
  }
  for (RequestId id : cancelled) {
    if (waiting_.contains(id) || active_.contains(id)) end(id, text::FinishReason::cancelled);
  }
}

/// What each logit row is to be chosen by. Rows whose choice is the host's ask for logits instead.
void Engine::describe_choices(PlannedStep& planned) {
  exec::Step& step = planned.step;
  for (const StepSegment& segment : planned.segments) {
    const Active& active = active_.at(segment.id);
    if (active.contrastive) step.wants.hidden = true;
    if (!segment.wants_logits) continue;
    if (active.contrastive) {
      step.wants.logits = true;
      step.batch.sample.emplace_back();
    } else {
      step.batch.sample.push_back(active.sampler.describe(scheduler_.at(segment.id).tokens, step.batch.changes));
    }
  }
}

void Engine::step() {
  std::optional<PlannedStep> planned = scheduler_.next();
  if (!planned) return;
  describe_choices(*planned);
  const auto now = Clock::now();
  for (const StepSegment& segment : planned->segments) {
    Active& active = active_.at(segment.id);
    if (!active.first_step) active.first_step = now;
  }
  ErrorCode code = ErrorCode::device;
  std::string what;
  try {
    return deliver(*planned, executor_->wait(executor_->launch(planned->step)));
  } catch (const Error& error) {
    code = error.code();
    what = error.what();
  } catch (const std::bad_alloc&) {
    code = ErrorCode::out_of_memory;
    what = "not enough memory for this step";
  } catch (const std::exception& error) {
    what = error.what();
  }
  log(LogLevel::error, "step failed: code=", to_string(code), " segments=", planned->segments.size(),
      " rows=", planned->step.batch.tokens.size(), " what='", what, "'");
  for (const StepSegment& segment : planned->segments) {
    if (active_.contains(segment.id)) fail(segment.id, error_of(code, "the step failed: " + what));
  }
  if (!executor_->lost()) return;
  // Nothing will ever run again here: whoever waits hears of it now.
  log(LogLevel::error, "device lost: requests=", active_.size() + waiting_.size());
  while (!active_.empty()) fail(active_.begin()->first, error_of(ErrorCode::device, "the device is lost: " + what));
  while (!waiting_.empty()) fail(waiting_.begin()->first, error_of(ErrorCode::device, "the device is lost: " + what));
}

std::vector<Engine::Group> Engine::groups_of(const PlannedStep& planned) const {
  std::vector<Group> groups;
  size_t logit_rows = 0;
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const StepSegment& segment = planned.segments[i];
    if (groups.empty() || groups.back().id != segment.id)
      groups.push_back({.id = segment.id,
                        .first = i,
                        .count = 0,
                        .first_logit_row = logit_rows,
                        .wants_logits = segment.wants_logits});
    ++groups.back().count;
    logit_rows += segment.wants_logits;
  }
  return groups;
}

void Engine::deliver(const PlannedStep& planned, const exec::StepResult& result) {
  for (const Group& group : groups_of(planned)) {
    std::exception_ptr error;
    try {
      Active& active = active_.at(group.id);
      const Sequence& sequence = scheduler_.at(group.id);
      if (sequence.length() == sequence.prompt)
        active.job->request.sink->prompt_computed(sequence.computed, sequence.cached);
      if (active.contrastive) {
        advance_contrastive(active, group, planned, result);
      } else if (group.wants_logits) {
        advance(active, group, result);
      }
    } catch (...) {
      error = std::current_exception();
    }
    if (error) fail(group.id, std::move(error));
  }
}

void Engine::advance(Active& active, const Group& group, const exec::StepResult& result) {
  const int32_t token = result.ids[group.first_logit_row];
  require_chosen(token);
  if (ends(group.id, active, token)) return;
  scheduler_.append(group.id, token);
  active.sampler.accept(token);
  emit(group.id, active, logprob_of(active.sampler.config(), result, group.first_logit_row));
}

void Engine::advance_contrastive(Active& active, const Group& group, const PlannedStep& planned,
                                 const exec::StepResult& result) {
  ContrastiveSearcher& search = *active.contrastive;
  const auto hidden = [&](size_t i) {
    const Segment& segment = planned.step.batch.segments[group.first + i];
    const size_t d = size_t(options_.d_model);
    return result.hidden.subspan(size_t(segment.first) * d, size_t(segment.rows) * d);
  };
  const auto propose = [&](size_t branch) {
    const size_t vocab = size_t(options_.vocab);
    const auto logits = result.logits.subspan((group.first_logit_row + branch) * vocab, vocab);
    scheduler_.propose(group.id, search.propose(active.sampler, scheduler_.at(group.id).tokens, logits));
  };
  if (!search.proposed()) {  // still the prompt
    search.remember(hidden(0));
    if (group.wants_logits) propose(0);
    return;
  }
  std::vector<std::span<const float>> states;
  for (size_t i = 0; i < group.count; ++i) states.push_back(hidden(i));
  const int chosen = search.choose(states);
  const int32_t token = search.token(chosen);
  if (ends(group.id, active, token)) return;
  scheduler_.keep_branch(group.id, chosen);
  active.sampler.accept(token);
  if (emit(group.id, active, std::move(search.logprob(chosen)))) propose(size_t(chosen));
}

bool Engine::ends(RequestId id, Active& active, int32_t token) {
  if (!active.first_token) active.first_token = Clock::now();
  if (!active.sampler.is_eos(token)) return false;
  active.stop_token = token;
  end(id, text::FinishReason::stop);
  return true;
}

bool Engine::emit(RequestId id, Active& active, std::optional<text::TokenLogprob> logprob) {
  if (logprob) active.logprobs.push_back(std::move(*logprob));
  const Sequence& sequence = scheduler_.at(id);
  TokenSink* const sink = active.job->request.sink.get();
  const auto reason = sink->take(sequence.tokens.back(), logprob ? &active.logprobs.back() : nullptr);
  if (reason == TokenSink::StopReason::stop) return end(id, text::FinishReason::stop), false;
  if (reason == TokenSink::StopReason::length) return end(id, text::FinishReason::length), false;
  if (reason == TokenSink::StopReason::cancelled) return end(id, text::FinishReason::cancelled), false;
  if (sequence.length() - sequence.prompt >= sequence.max_new) return end(id, text::FinishReason::length), false;
  active.sampler.ban_end(sink->must_go_on());
  return true;
}

void Engine::end(RequestId id, text::FinishReason reason) {
  GenerationResult result;
  result.reason = reason;
  const auto now = Clock::now();
  std::shared_ptr<Job> job;
  const auto timings = [&](Clock::time_point first_step, Clock::time_point first_token) -> text::Timings {
    return {.queue_s = seconds(first_step - job->called),
            .ttft_s = seconds(first_token - job->called),
            .prefill_s = seconds(first_token - first_step),
            .decode_s = seconds(now - first_token)};
  };
  if (auto waiting = waiting_.extract(id)) {
    job = std::move(waiting.mapped());
    result.timings = timings(now, now);
  } else {
    result.cached = scheduler_.at(id).cached;
    const std::span<const int32_t> output = scheduler_.at(id).output();
    result.tokens.assign(output.begin(), output.end());
    auto node = active_.extract(id);
    Active& active = node.mapped();
    job = active.job;
    result.logprobs = std::move(active.logprobs);
    result.stop_token = active.stop_token;
    result.timings = timings(active.first_step.value_or(now), active.first_token.value_or(now));
  }  // gives the adapters back before anybody hears of the end
  scheduler_.finish(id);
  log(LogLevel::debug, "request ended: id=", id, " tokens=", result.tokens.size(), " queue_s=", result.timings.queue_s,
      " ttft_s=", result.timings.ttft_s, " decode_s=", result.timings.decode_s, " cached=", result.cached);
  tell_end(*job, std::move(result));
}

void Engine::fail(RequestId id, std::exception_ptr error) noexcept {
  std::shared_ptr<Job> job;
  if (auto waiting = waiting_.extract(id)) job = std::move(waiting.mapped());
  if (auto node = active_.extract(id)) job = node.mapped().job;
  scheduler_.finish(id);
  if (job == nullptr) return;
  if (error == nullptr) {
    try {
      error = error_of(ErrorCode::cancelled, "the serving was shut down");
    } catch (...) {
      error = job->out_of_memory;
    }
  }
  tell_failure(*job, std::move(error));
}

void Engine::shed() noexcept {
  while (!active_.empty()) fail(active_.begin()->first, active_.begin()->second.job->out_of_memory);
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const RequestId id = it->first;
    const std::shared_ptr<Job> job = (it++)->second;
    if (scheduler_.is_active(id)) fail(id, job->out_of_memory);  // it was being activated
  }
}

/// Nothing runs: pages that were used go back to the system.
void Engine::release_memory() {
  const std::vector<int32_t> freed = scheduler_.take_freed();
  if (!freed.empty()) executor_->release_pages(freed);
}

}  // namespace bumblebee::engine
