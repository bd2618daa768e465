// Requests come and go. An error that one request causes ends that request; a shortage of memory in the loop itself
// ends the youngest. Nothing ends the loop but the destructor.
#include "engine/engine.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/deadline.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/loop_parts.h"

namespace bumblebee::engine {
namespace {

/// Bumblebee's default when neither max_new_tokens nor max_length is given.
constexpr int kDefaultMaxNewTokens = 20;
/// How often preemptions are worth a line.
constexpr std::chrono::minutes kPreemptionsLogged{1};
/// Pages whose memory an idle engine gives back before it looks again whether somebody came.
constexpr int kReleasedAtOnce = 16;

/// Before it has begun.
std::chrono::steady_clock::time_point first_deadline(const Request& request) {
  constexpr auto kNever = std::chrono::steady_clock::time_point::max();
  return std::min(request.queue_deadline.value_or(kNever), request.deadline.value_or(kNever));
}

}  // namespace

void check_options(const EngineOptions& options, int context) {
  const auto require = [](bool ok, const char* field, int64_t value, const std::string& expected) {
    if (!ok) throw Error(ErrorCode::bad_request, "generation", cat(field, ": expected ", expected, ", got ", value));
  };
  require(options.batch_size >= 1 && options.batch_size <= 1024, "batch_size", options.batch_size, "1 to 1024");
  require(options.sequence_length >= 2 && options.sequence_length <= context, "sequence_length",
          options.sequence_length, cat("2 to ", context, " (the model's context)"));
  require(options.prefill_chunk >= 1 && options.prefill_chunk <= 65536, "prefill_chunk", options.prefill_chunk,
          "1 to 65536");
  require(options.max_waiting >= 0, "max_waiting", options.max_waiting, "0 or more");
  require(options.max_waiting_tokens >= 0, "max_waiting_tokens", options.max_waiting_tokens, "0 or more");
  require(options.step_target_ms >= 0, "step_target_ms", options.step_target_ms, "0 or more");
  require(options.batch_timeout_ms >= 0, "batch_timeout_ms", options.batch_timeout_ms, "0 or more");
}

Engine::Live::Live(RequestId i, Request r)
    : id(i),
      request(std::move(r)),
      root(prefix_root(request.adapters, request.salt)),
      out_of_memory(std::make_exception_ptr(
          Error(ErrorCode::out_of_memory, "engine", "not enough memory to go on with this request"))),
      waiting_tokens(int(request.prompt.size())) {}

Engine::Engine(std::unique_ptr<exec::Executor> executor, const EngineOptions& options)
    : options_(options),
      executor_(std::move(executor)),
      scheduler_({.batch_size = options.batch_size,
                  .sequence_length = options.sequence_length,
                  .pages = executor_->pages(),
                  .page_size = executor_->page_size(),
                  .max_active_per_key = options.max_active_per_key,
                  .prefix_cache = options.prefix_cache,
                  .stretch_beyond = options.stretch_beyond,
                  .states = executor_->states()}),
      pace_(options.prefill_chunk, options.prefill_alone > 0 ? options.prefill_alone : options.prefill_chunk,
            options.step_target_ms / 1e3),
      opener_(*executor_, [this] {
        const std::lock_guard lock(mutex_);
        wake_.notify_one();
      }) {
  const exec::MemoryReport memory = executor_->memory();
  Counters::set(counters_.page_bytes, memory.page_bytes);
  Counters::set(counters_.states, memory.states);
  Counters::set(counters_.state_bytes, memory.state_bytes);
  Counters::set(counters_.page_tokens, executor_->page_size());
  groups_.reserve(size_t(options.batch_size));
  publish();
  thread_ = std::thread([this] { loop(); });
}

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
  return std::min(wanted, options_.sequence_length - prompt);
}

void Engine::check(const Request& request) const {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::bad_request, "generation", what); };
  if (request.prompt.empty()) refuse("the prompt has no tokens");
  if (request.prompt.size() >= size_t(options_.sequence_length)) {
    throw TooLong("generation",
                  cat("prompt: expected fewer tokens than the sequence length of ", options_.sequence_length, ", got ",
                      request.prompt.size(), "; shorten it or raise the sequence length"),
                  int64_t(request.prompt.size()), options_.sequence_length);
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

void Engine::require_room_locked(int requests, int64_t tokens) const {
  if (stopping_) throw Error(ErrorCode::cancelled, "engine", "the serving was shut down");
  const auto refuse = [&](ErrorCode code, const std::string& what) {
    Counters::add(counters_.refused, requests);
    throw Error(code, "engine", what);
  };
  if (draining_) refuse(ErrorCode::draining, "the serving is shutting down: it takes nothing new");
  const int64_t most = most_requests();
  if (requests > most) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("expected at most ", most, " requests at once (batch_size + max_waiting), got ", requests));
  }
  if (int64_t(alive_.size()) + requests > most) {
    refuse(ErrorCode::busy, cat("the queue is full: expected at most ", most, " requests at once, got ", requests,
                                " beside ", alive_.size()));
  }
  if (const int64_t waiting = counters_.waiting_tokens.load(std::memory_order_relaxed);
      too_many_tokens(waiting, tokens)) {
    refuse(ErrorCode::busy, cat("the queue is full: expected at most ", options_.max_waiting_tokens,
                                " waiting tokens, got ", tokens, " beside ", waiting));
  }
}

void Engine::require_room(int requests) const {
  const std::lock_guard lock(mutex_);
  require_room_locked(requests, 0);
}

bool Engine::full(int64_t tokens) const {
  const std::lock_guard lock(mutex_);
  return !draining_ && !stopping_ &&
         (int64_t(alive_.size()) >= most_requests() ||
          too_many_tokens(counters_.waiting_tokens.load(std::memory_order_relaxed), tokens));
}

RequestId Engine::submit(Request request) {
  std::vector<Request> one;
  one.push_back(std::move(request));
  return submit(std::move(one)).front();
}

std::vector<RequestId> Engine::submit(std::vector<Request> requests) {
  const int count = int(requests.size());
  int64_t tokens = 0;
  for (const Request& request : requests) tokens += int64_t(request.prompt.size());
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    require_room_locked(count, tokens);
    id = std::exchange(next_id_, next_id_ + RequestId(count));
  }
  // The memory of what the engine keeps is asked for here: its thread only takes it over.
  std::vector<RequestId> ids;
  std::map<RequestId, Live> arriving;
  std::map<RequestId, bool> alive;
  for (Request& request : requests) {
    BB_CHECK(request.sink != nullptr);
    check(request);
    ids.push_back(id);
    alive.emplace(id, false);
    arriving.try_emplace(id, id, std::move(request));
    ++id;
  }
  {
    const std::lock_guard lock(mutex_);
    require_room_locked(count, tokens);
    cancelled_.reserve(cancelled_.size() + alive_.size() + alive.size());
    alive_.merge(alive);
    incoming_.merge(arriving);
    Counters::add(counters_.waiting, count);
    Counters::add(counters_.waiting_tokens, tokens);
  }
  wake_.notify_one();
  return ids;
}

void Engine::cancel(RequestId id) noexcept {
  {
    const std::lock_guard lock(mutex_);
    const auto found = alive_.find(id);
    if (found == alive_.end() || std::exchange(found->second, true)) return;
    cancelled_.push_back(id);
  }
  wake_.notify_one();
}

bool Engine::drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  wake_.notify_one();  // an idle engine waits for no company any more
  const auto over = [this] { return alive_.empty() && telling_ == 0; };
  if (ended_.wait_until(lock, from_now(timeout), over)) return true;
  for (auto& [id, cancelled] : alive_) {
    if (!std::exchange(cancelled, true)) cancelled_.push_back(id);
  }
  wake_.notify_one();
  ended_.wait(lock, over);
  return false;
}

void Engine::loop() noexcept {
  while (await_work()) {
    try {
      iterate();
    } catch (...) {  // only memory can be missing here: everything else is a request's own affair
      shed();
    }
    tell_step();
  }
  live_.merge(incoming_);  // nothing comes any more
  while (!live_.empty()) fail(live_.begin()->first, nullptr);
  tell_step();
}

void Engine::tell_step() noexcept {
  if (std::exchange(told_, false) && options_.on_step) options_.on_step();
}

/// Blocks until there is something to do, and takes over what came; false: the engine is to end.
bool Engine::await_work() {
  std::unique_lock lock(mutex_);
  const auto called = [this] { return stopping_ || !incoming_.empty() || !cancelled_.empty() || opener_.untaken(); };
  if (!busy_) {
    Clock::time_point until = next_deadline_;
    if (scheduler_.active() == 0 && scheduler_.has_freed())
      until = std::min(until, idle_since_ + std::chrono::milliseconds(options_.keep_spare_ms));
    if (until == Clock::time_point::max()) {
      wake_.wait(lock, called);
    } else {
      wake_.wait_until(lock, until, called);
    }
  }
  if (live_.empty() && options_.batch_timeout_ms > 0) await_company(lock);
  if (stopping_) return false;
  arrived_ = arrived_ || !incoming_.empty();
  cancels_ = cancels_ || !cancelled_.empty();
  live_.merge(incoming_);
  for (const RequestId id : cancelled_) {
    if (const auto found = live_.find(id); found != live_.end()) found->second.cancelled = true;
  }
  cancelled_.clear();
  return true;
}

/// Whoever comes may be in more of a hurry than those who wait already. Company is worth half of the time that a
/// request has to begin, so that one that nobody joins still begins in time.
void Engine::await_company(std::unique_lock<std::mutex>& lock) {
  while (!incoming_.empty() && int(incoming_.size()) < options_.batch_size) {
    if (stopping_ || draining_ || !cancelled_.empty()) return;
    Clock::time_point until = incoming_.begin()->second.called + std::chrono::milliseconds(options_.batch_timeout_ms);
    for (const auto& [id, live] : incoming_) {
      if (const Clock::time_point last = first_deadline(live.request); last != Clock::time_point::max())
        until = std::min(until, live.called + (last - live.called) / 2);
    }
    if (wake_.wait_until(lock, until) == std::cv_status::timeout) return;
  }
}

void Engine::iterate() {
  busy_ = true;  // until it is clear that nothing is left: what fails is tried again
  if (arrived_) enqueue();
  if (cancels_) end_cancelled();
  expire(Clock::now());
  const std::optional<RequestId> untaken = opening_ > 0 ? opener_.untaken() : std::nullopt;
  scheduler_.restart_outgrown();
  let_go_preempted();
  if (!retried_ || scheduler_.active() == 0) activate();  // what had no memory is tried again before anybody joins it
  publish();
  const bool stepped = step();
  log_preemptions();
  if (!stepped) release_spare();
  const bool gave_way = !stepped && untaken && scheduler_.active() == 0 && give_way(*untaken);
  busy_ = stepped || told_ || gave_way;  // whoever ended has left a place to others
  if (stepped) idle_since_ = Clock::now();
  publish();
}

/// Nothing runs, and a request whose set is there was not asked: those before it do not begin, for want of the place
/// that this set keeps. It opens its own again when its turn comes. False: it was asked.
bool Engine::give_way(RequestId id) noexcept {
  const auto found = live_.find(id);
  if (found == live_.end() || !found->second.opening) return false;
  opener_.forget(id);
  found->second.opening = false;
  --opening_;
  ++ends_;  // there is memory again
  return true;
}

void Engine::enqueue() {
  for (auto& [id, live] : live_) {
    if (live.stage != Stage::arrived) continue;
    std::exception_ptr refusal;
    try {
      Request& request = live.request;
      const bool contrastive = ContrastiveSearcher::make(request.config, options_.d_model).has_value();
      Sequence sequence;
      sequence.id = id;
      sequence.max_new = max_new(request);
      sequence.alternatives = contrastive ? std::get<ContrastiveSearch>(request.config.strategy).top_k : 1;
      sequence.priority = request.priority;
      sequence.key = request.key;
      if (sequence.key.empty() && !request.adapters.empty())
        sequence.key = to_string(lora::AdapterCache::identity(request.adapters));
      sequence.root = live.root;
      sequence.cache = request.cache && !contrastive;  // the search wants the hidden states of all tokens
      sequence.tokens = std::move(request.prompt);
      scheduler_.submit(std::move(sequence));
      live.stage = Stage::waiting;
      next_deadline_ = std::min(next_deadline_, first_deadline(request));
    } catch (const Error&) {
      refusal = std::current_exception();
    } catch (...) {
      refusal = live.out_of_memory;
    }
    if (refusal) {
      live.failure = refusal;
      live.cancelled = cancels_ = true;
    }
  }
  arrived_ = false;
}

void Engine::end_cancelled() {
  for (auto it = live_.begin(); it != live_.end();) {
    Live& live = (it++)->second;
    if (!live.cancelled) continue;
    if (live.failure) {
      fail(live.id, live.failure);
    } else {
      end(live.id, text::FinishReason::cancelled);
    }
  }
  cancels_ = false;
}

void Engine::expire(Clock::time_point now) {
  if (now < next_deadline_) return;
  auto next = Clock::time_point::max();
  for (auto it = live_.begin(); it != live_.end();) {
    Live& live = (it++)->second;
    const bool late = live.request.deadline && *live.request.deadline <= now;
    const bool queued = !live.sampler && live.request.queue_deadline;
    if (late || (queued && *live.request.queue_deadline <= now)) {
      fail(live.id, error_of(ErrorCode::timed_out, late ? "the request's deadline passed before it was over"
                                                        : "the request waited longer than it may"));
      continue;
    }
    if (live.request.deadline) next = std::min(next, *live.request.deadline);
    if (queued) next = std::min(next, *live.request.queue_deadline);
  }
  next_deadline_ = next;
}

/// Everything of a request is given back before anybody hears of its end.
template <class Tell>
void Engine::leave(RequestId id, Scheduler::Leaves leaves, const Tell& tell) noexcept {
  std::shared_ptr<TokenSink> sink;
  {
    const auto node = live_.extract(id);
    Live& live = node.mapped();
    sink = std::move(live.request.sink);
    if (live.opening) opener_.forget(id);
    opening_ -= live.opening || live.opened;
    sets_in_use_ -= live.uses_set;
    if (!live.request.adapters.empty()) ++ends_;
    if (live.stage != Stage::active) Counters::add(counters_.waiting, -1);
    Counters::add(counters_.waiting_tokens, -live.waiting_tokens);
    scheduler_.finish(id, leaves);
  }
  publish();
  {
    const std::lock_guard lock(mutex_);
    alive_.erase(id);
    ++telling_;
  }
  tell(*sink);
  sink = nullptr;
  told_ = true;
  const std::lock_guard lock(mutex_);
  if (--telling_ == 0 && alive_.empty()) ended_.notify_all();
}

void Engine::end(RequestId id, text::FinishReason reason) {
  GenerationResult result;
  result.reason = reason;
  const auto now = Clock::now();
  Live& live = live_.at(id);
  if (live.sampler) {
    const Sequence& sequence = scheduler_.at(id);
    result.cached = sequence.cached;
    result.tokens.assign(sequence.output().begin(), sequence.output().end());
    result.logprobs = std::move(live.logprobs);
    result.stop_token = live.stop_token;
  }
  const Clock::time_point first_step = live.first_step.value_or(now), first_token = live.first_token.value_or(now);
  result.timings = {.queue_s = seconds(first_step - live.called),
                    .ttft_s = seconds(first_token - live.called),
                    .prefill_s = seconds(first_token - first_step),
                    .decode_s = seconds(now - first_token)};
  log(LogLevel::debug, "request ended: id=", id, " tokens=", result.tokens.size(), " queue_s=", result.timings.queue_s,
      " ttft_s=", result.timings.ttft_s, " decode_s=", result.timings.decode_s, " cached=", result.cached);
  Counters::add(reason == text::FinishReason::stop     ? counters_.stopped
                : reason == text::FinishReason::length ? counters_.by_length
                                                       : counters_.cancelled,
                1);
  leave(id, Scheduler::Leaves::pages, [&](TokenSink& sink) { sink.ended(std::move(result)); });
}

void Engine::fail(RequestId id, std::exception_ptr error) noexcept {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  if (error == nullptr) {
    try {
      error = error_of(ErrorCode::cancelled, "the serving was shut down");
    } catch (...) {
      error = found->second.out_of_memory;
    }
  }
  Counters::add(counters_.failed, 1);
  leave(id, Scheduler::Leaves::nothing, [&](TokenSink& sink) { sink.failed(std::move(error)); });
}

/// Memory was short somewhere in the loop: whoever came last makes room.
void Engine::shed() noexcept {
  let_go_preempted();
  const std::optional<RequestId> youngest = scheduler_.youngest();
  const auto found = youngest ? live_.find(*youngest) : live_.end();
  if (found == live_.end()) return;
  try {
    log(LogLevel::error, "memory is short: requests=", live_.size(), " given up=", found->first);
  } catch (...) {  // nor for saying so
  }
  fail(found->first, found->second.out_of_memory);
}

/// Nothing runs: memory of pages that hold nothing goes back after a while, a little at a time.
void Engine::release_spare() {
  if (scheduler_.active() > 0 || !scheduler_.has_freed()) return;
  if (Clock::now() < idle_since_ + std::chrono::milliseconds(options_.keep_spare_ms)) return;
  executor_->release_pages(scheduler_.take_freed(kReleasedAtOnce));
}

/// Some are business as usual; that there were many is worth knowing.
void Engine::log_preemptions() {
  const uint64_t count = scheduler_.counters().preemptions;
  const auto now = Clock::now();
  if (count == preemptions_logged_ || now < next_preemption_log_) return;
  log(LogLevel::warning, "pages are short: preemptions=", count - preemptions_logged_, " running=", scheduler_.active(),
      " waiting=", scheduler_.waiting(), " pages=", scheduler_.pages().total);
  preemptions_logged_ = count;
  next_preemption_log_ = now + kPreemptionsLogged;
}

void Engine::publish() {
  const PageStats pages = scheduler_.pages();
  const SchedulerCounters& counts = scheduler_.counters();
  Counters::set(counters_.running, scheduler_.active());
  Counters::set(counters_.pages, pages.total);
  Counters::set(counters_.pages_used, pages.used);
  Counters::set(counters_.pages_cached, pages.cached);
  const StateTable& states = scheduler_.states();
  const int cached = states.cached();
  Counters::set(counters_.states_used, states.total() - states.free() - cached);
  Counters::set(counters_.states_cached, cached);
  Counters::set(counters_.looked_up, counts.looked_up);
  Counters::set(counters_.found, counts.found);
  Counters::set(counters_.preemptions, counts.preemptions);
  Counters::set(counters_.recomputed, counts.recomputed);
}

}  // namespace bumblebee::engine
