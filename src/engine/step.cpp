// A step from its requests' activation to what their sinks hear: plan, launch, collect. What a step leaves is taken
// over by as many threads as the device computes with, one request on one thread.
#include <algorithm>
#include <climits>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/loop_parts.h"

namespace bumblebee::engine {
namespace {

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

std::optional<text::FinishReason> reason_of(TokenSink::StopReason reason) {
  switch (reason) {
    case TokenSink::StopReason::none: return std::nullopt;
    case TokenSink::StopReason::stop: return text::FinishReason::stop;
    case TokenSink::StopReason::length: return text::FinishReason::length;
    case TokenSink::StopReason::cancelled: return text::FinishReason::cancelled;
  }
  BB_UNREACHABLE();
}

}  // namespace

/// Where there is no memory for what somebody needs to begin, those that run go on.
void Engine::activate() {
  std::span<const RequestId> activated;
  try {
    activated = scheduler_.activate([this](const Sequence& sequence) { return ready(live_.at(sequence.id)); });
  } catch (...) {
    const std::optional<RequestId> asked = scheduler_.asked();
    if (!asked) throw;
    fail(*asked, live_.at(*asked).out_of_memory);
  }
  for (const RequestId id : activated) start(live_.at(id));
}

void Engine::open_apart(Live& live) {
  opener_.open(live.id, live.request.adapters);
  live.opening = true;
  live.opening_since = ends_;
  ++opening_;
}

bool Engine::try_open_apart(Live& live) noexcept {
  try {
    open_apart(live);
    return true;
  } catch (...) {
    return false;
  }
}

/// Whether a request's set of adapters is there; begins to open it where it is not. What is wrong with it, the request
/// hears once it has its place.
FairQueue::Verdict Engine::ready(Live& live) {
  using Verdict = FairQueue::Verdict;
  if (live.request.adapters.empty() || live.opened || live.failure) return Verdict::fits;
  // Sets of others that wait have their turn before anybody waits for their memory: only those that run will give it
  // back by themselves.
  const Verdict no_room = sets_in_use_ > 0 ? Verdict::no_room : Verdict::not_yet;
  if (live.no_room_at == ends_ && sets_in_use_ + opening_ > 0) return no_room;
  try {
    if (auto set = live.opening ? opener_.take(live.id) : executor_->open_now(live.request.adapters)) {
      live.set = std::move(*set);
      live.opened = true;
      opening_ += !std::exchange(live.opening, false);
      return Verdict::fits;
    }
    // No more at once than may become active: those that wait hold nothing.
    if (live.opening || opening_ >= options_.batch_size - scheduler_.active()) return Verdict::not_yet;
    open_apart(live);
    return Verdict::not_yet;
  } catch (const Error& error) {
    opening_ -= std::exchange(live.opening, false);
    if (error.code() == ErrorCode::out_of_memory &&
        sets_in_use_ + opening_ > 0) {  // once somebody ends, there may be room
      live.no_room_at = ends_;
      return no_room;
    }
    // While it was being opened somebody still had what is free now.
    if (error.code() == ErrorCode::out_of_memory && live.opening_since != ends_ && try_open_apart(live))
      return Verdict::not_yet;
    live.failure = std::current_exception();
  } catch (const std::bad_alloc&) {
    opening_ -= std::exchange(live.opening, false);
    live.failure = live.out_of_memory;
  } catch (...) {  // no thread to open it on
    opening_ -= std::exchange(live.opening, false);
    live.failure = std::current_exception();
  }
  return Verdict::fits;
}

void Engine::start(Live& live) {
  live.stage = Stage::active;
  Counters::add(counters_.waiting, -1);
  Counters::add(counters_.waiting_tokens, -std::exchange(live.waiting_tokens, 0));
  std::exception_ptr error;
  try {
    if (live.failure) std::rethrow_exception(live.failure);
    Sequence& sequence = scheduler_.at(live.id);
    sequence.adapters = std::exchange(live.set, nullptr);
    opening_ -= std::exchange(live.opened, false);
    live.slot = executor_->slot(sequence.adapters);
    sequence.slot = live.slot.slot();
    sets_in_use_ += live.uses_set = sequence.adapters != nullptr;
    if (!live.sampler) {
      live.contrastive = ContrastiveSearcher::make(live.request.config, options_.d_model);
      live.sampler.emplace(live.request.config, sequence.tokens, options_.vocab, live.request.seed);
      live.sampler->ban_end(live.request.sink->must_go_on());
      Counters::add(counters_.prompt_tokens, sequence.prompt);
      live.request.sink->prompt_computed(sequence.computed, sequence.cached);
    }
  } catch (const std::bad_alloc&) {
    error = live.out_of_memory;
  } catch (...) {
    error = std::current_exception();
  }
  if (error) fail(live.id, std::move(error));
}

/// They wait again: what they had on the device goes to those that run.
void Engine::let_go_preempted() noexcept {
  for (const RequestId id : scheduler_.take_preempted()) {
    Live& live = live_.at(id);
    sets_in_use_ -= std::exchange(live.uses_set, false);
    live.slot = {};
    live.stage = Stage::waiting;
    Counters::add(counters_.waiting, 1);
    if (!live.request.adapters.empty()) ++ends_;
  }
}

/// What each logit row is to be chosen by, after so many tokens that nobody knows yet. Rows whose choice is the host's
/// ask for logits instead.
void Engine::describe_choices(PlannedStep& planned, int unknown) {
  exec::Step& step = planned.step;
  for (const StepSegment& segment : planned.segments) {
    const Live& live = live_.at(segment.id);
    if (live.contrastive) step.wants.hidden = true;
    if (!segment.wants_logits) continue;
    if (live.contrastive) {
      step.wants.logits = true;
      step.batch.sample.emplace_back();
    } else {
      step.batch.sample.push_back(
          live.sampler->describe(scheduler_.at(segment.id).tokens, step.batch.changes, unknown));
    }
  }
}

/// Whether the body ran to its end. The step must be undone in any case: words that there is no memory for are left
/// out.
bool Engine::tried(Failure& failure, FunctionRef<void()> body) noexcept {
  const auto failed = [&](ErrorCode why, const char* words) {
    failure.code = why;
    try {
      failure.what = words;
    } catch (const std::bad_alloc&) {
    }
    return false;
  };
  try {
    body();
    return true;
  } catch (const Error& error) {
    return failed(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return failed(ErrorCode::out_of_memory, "not enough memory for this step");
  } catch (const std::exception& error) {
    return failed(ErrorCode::device, error.what());
  } catch (...) {
    return failed(ErrorCode::device, "no std::exception");
  }
}

void Engine::launch(Flight& flight, int unknown) {
  describe_choices(flight.planned, unknown);
  flight.launched = Clock::now();
  for (const StepSegment& segment : flight.planned.segments) {
    Live& live = live_.at(segment.id);
    if (!live.first_step) live.first_step = flight.launched;
  }
  flight.ticket = executor_->launch(flight.planned.step);
}

/// While a device computes `flight`, it is given the step after it, where that does not depend on what comes out of
/// this one: it need not wait for the host to read and plan. Whoever ends meanwhile has computed a row for nothing.
/// What fails here is tried again when `flight` is collected.
void Engine::launch_ahead(const Flight& flight) noexcept {
  if (!executor_->asynchronous()) return;
  for (const StepSegment& segment : flight.planned.segments) {
    const auto found = live_.find(segment.id);
    if (found != live_.end() && !found->second.sampler->foresees()) return;
  }
  Flight next;
  Failure unheard;
  const bool launched = tried(unheard, [&] {
    std::optional<PlannedStep> planned = scheduler_.next_ahead(flight.planned);
    if (!planned) return;
    next.planned = std::move(*planned);
    next.demand = {.decoding = next.planned.decode_rows, .prompts = 0};
    launch(next, 1);
  });
  if (!launched) {
    scheduler_.undo(next.planned);
  } else if (next.ticket > 0) {
    ahead_ = std::move(next);
  }
}

/// False when nothing could be computed.
bool Engine::step() {
  const auto begin = Clock::now();
  Flight flight;
  Failure failure;
  const bool flies = ahead_.has_value();
  if (flies) {
    flight = *std::exchange(ahead_, std::nullopt);
  } else {
    const int decoding = scheduler_.decoding();
    flight.demand = {decoding, scheduler_.active() - decoding};
    std::optional<PlannedStep> planned = scheduler_.next(pace_.rows(flight.demand));
    let_go_preempted();
    publish();  // whoever was given up waits, and does not run any more
    if (!planned) return false;
    flight.planned = std::move(*planned);
    if (!tried(failure, [&] { launch(flight, 0); })) {
      step_failed(flight.planned, failure);
      return true;
    }
    Counters::add(counters_.plan, seconds(flight.launched - begin));
  }
  launch_ahead(flight);
  const exec::StepResult* result = nullptr;
  if (!tried(failure, [&] { result = &executor_->wait(flight.ticket); })) {
    if (const auto after = std::exchange(ahead_, std::nullopt)) {
      Failure unheard;
      (void)tried(unheard, [&] { (void)executor_->wait(after->ticket); });
      scheduler_.undo(after->planned);
    }
    step_failed(flight.planned, failure);
    return true;
  }
  measure(flight, *result, flies ? begin : flight.launched);
  const auto delivering = Clock::now();
  collect(flight.planned, *result);
  Counters::add(counters_.text, seconds(Clock::now() - delivering));
  told_ = true;
  return true;
}

/// `since`: when the engine began to wait for it.
void Engine::measure(const Flight& flight, const exec::StepResult& result, Clock::time_point since) {
  const auto now = Clock::now();
  const int rows = flight.planned.step.batch.rows(), decode_rows = flight.planned.decode_rows;
  Counters::add(counters_.compute, std::max(seconds(now - since) - result.sample_seconds, 0.0));
  Counters::add(counters_.sample, result.sample_seconds);
  Counters::add(counters_.steps, 1);
  Counters::add(counters_.rows, rows);
  // Of a step that was launched early that is too long, which says nothing wrong of how many rows a step may have.
  pace_.measured(flight.demand, rows - decode_rows, decode_rows, seconds(now - flight.launched));
  retried_ = false;
}

void Engine::step_failed(const PlannedStep& planned, const Failure& failure) {
  const auto& [code, what] = failure;
  if (code == ErrorCode::out_of_memory && !executor_->lost()) return recover(planned, what);
  scheduler_.undo(planned);
  log(LogLevel::error, "step failed: code=", to_string(code), " segments=", planned.segments.size(),
      " rows=", planned.step.batch.tokens.size(), " what='", what, "'");
  for (const StepSegment& segment : planned.segments) {
    if (live_.contains(segment.id)) fail(segment.id, error_of(code, "the step failed: " + what));
  }
  if (!executor_->lost()) return;
  // Nothing will ever run again here: whoever waits hears of it now.
  log(LogLevel::error, "device lost: requests=", live_.size());
  while (!live_.empty()) fail(live_.begin()->first, error_of(ErrorCode::device, "the device is lost: " + what));
}

/// There was no memory for a step: the next one is smaller. Unless this one was larger than prompts need to be, it is
/// by one request less too, and the cache goes with what that request left in it. Where that was so already, one
/// request fails, the youngest.
void Engine::recover(const PlannedStep& planned, const std::string& what) {
  scheduler_.undo(planned);
  if (const int rows = int(planned.step.batch.tokens.size()); pace_.no_memory(rows)) {
    log(LogLevel::info, "no memory for a step: rows=", rows, " what='", what, "'; steps are smaller from now on");
    return;
  }
  const bool again = std::exchange(retried_, true);
  scheduler_.preempt();
  let_go_preempted();
  scheduler_.drop_cache();
  executor_->release_pages(scheduler_.take_freed(INT_MAX));
  log(LogLevel::error, "no memory for a step: rows=", planned.step.batch.tokens.size(),
      " retried=", again ? "yes" : "no", " what='", what, "'");
  if (!again) return;
  retried_ = false;
  if (const auto youngest = scheduler_.youngest_active())
    fail(*youngest, error_of(ErrorCode::out_of_memory, "the step failed: " + what));
}

void Engine::collect(const PlannedStep& planned, const exec::StepResult& result) {
  scheduler_.done(planned);
  groups_.clear();
  size_t logit_rows = 0;
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const StepSegment& segment = planned.segments[i];
    const auto live = live_.find(segment.id);
    if (live == live_.end()) {  // it ended while the step was on its way
      logit_rows += segment.wants_logits;
      continue;
    }
    if (groups_.empty() || groups_.back().live->id != segment.id) {
      groups_.push_back({.live = &live->second,
                         .sequence = &scheduler_.at(segment.id),
                         .first = i,
                         .count = 0,
                         .first_logit_row = logit_rows,
                         .wants_logits = segment.wants_logits,
                         .token = {},
                         .end = {},
                         .error = nullptr});
    }
    ++groups_.back().count;
    logit_rows += segment.wants_logits;
  }
  executor_->in_parallel(int(groups_.size()), [&](int i) { take_token(groups_[size_t(i)], result); });
  for (Group& group : groups_) {
    const RequestId id = group.live->id;
    try {
      if (group.live->contrastive) advance_contrastive(group, planned, result);
      if (group.token && !group.live->contrastive) scheduler_.append(id, *group.token);
      Counters::add(counters_.generated, group.token.has_value());
      if (group.end && !group.error) end(id, *group.end);
    } catch (const std::bad_alloc&) {
      group.error = group.live->out_of_memory;
    } catch (...) {
      group.error = std::current_exception();
    }
    if (group.error) fail(id, std::move(group.error));
  }
}

/// On one of the host's threads: what one request makes of its row. Touches nothing that others do.
void Engine::take_token(Group& group, const exec::StepResult& result) const noexcept {
  Live& live = *group.live;
  try {
    TokenSink& sink = *live.request.sink;
    if (group.sequence->length() == group.sequence->prompt)
      sink.prompt_computed(group.sequence->settled(), group.sequence->cached);
    if (!group.wants_logits || live.contrastive) return;
    const int32_t token = result.ids[group.first_logit_row];
    require_chosen(token);
    if (!live.first_token) live.first_token = Clock::now();
    if (live.sampler->is_eos(token)) {
      live.stop_token = token;
      group.end = text::FinishReason::stop;
      return;
    }
    auto logprob = logprob_of(live.sampler->config(), result, group.first_logit_row);
    if (logprob) live.logprobs.push_back(std::move(*logprob));
    group.token = token;
    live.sampler->accept(token);
    group.end = reason_of(sink.take(token, logprob ? &live.logprobs.back() : nullptr));
    if (!group.end && int(group.sequence->output().size()) + 1 >= group.sequence->max_new)
      group.end = text::FinishReason::length;
    if (!group.end) live.sampler->ban_end(sink.must_go_on());
  } catch (const std::bad_alloc&) {
    group.error = live.out_of_memory;
  } catch (...) {
    group.error = std::current_exception();
  }
}

void Engine::advance_contrastive(Group& group, const PlannedStep& planned, const exec::StepResult& result) {
  Live& live = *group.live;
  ContrastiveSearcher& search = *live.contrastive;
  const auto hidden = [&](size_t i) {
    const Segment& segment = planned.step.batch.segments[group.first + i];
    const size_t d = size_t(options_.d_model);
    return result.hidden.subspan(size_t(segment.first) * d, size_t(segment.rows) * d);
  };
  const auto propose = [&](size_t branch) {
    const size_t vocab = size_t(options_.vocab);
    const auto logits = result.logits.subspan((group.first_logit_row + branch) * vocab, vocab);
    scheduler_.propose(live.id, search.propose(*live.sampler, group.sequence->tokens, logits));
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
  if (!live.first_token) live.first_token = Clock::now();
  if (live.sampler->is_eos(token)) {
    live.stop_token = token;
    group.end = text::FinishReason::stop;
    return;
  }
  scheduler_.keep_branch(live.id, chosen);
  group.token = token;
  live.sampler->accept(token);
  const bool logprob = search.logprob(chosen).has_value();
  if (logprob) live.logprobs.push_back(std::move(*search.logprob(chosen)));
  TokenSink& sink = *live.request.sink;
  group.end = reason_of(sink.take(token, logprob ? &live.logprobs.back() : nullptr));
  if (!group.end && int(group.sequence->output().size()) >= group.sequence->max_new)
    group.end = text::FinishReason::length;
  if (group.end) return;
  live.sampler->ban_end(sink.must_go_on());
  propose(size_t(chosen));
}

}  // namespace bumblebee::engine
