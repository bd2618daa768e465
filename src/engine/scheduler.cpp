// Requests on their way from the queue to the batch and back. What a step is made of: scheduler_step.cpp.
#include "engine/scheduler.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {

namespace {

/// States that a request may need at once: its own, and one for each alternative.
int most_states(const Sequence& request) { return request.alternatives > 1 ? 1 + request.alternatives : 1; }

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits)
    : limits_(limits),
      table_(limits.pages, limits.page_size),
      states_(limits.states),
      tree_(table_, limits.states > 0 ? &states_ : nullptr),
      queue_(limits.max_active_per_key) {
  BB_CHECK(limits.batch_size > 0 && limits.sequence_length > 0);
  for (auto* ids : {&activated_, &preempted_, &told_, &outgrown_}) ids->reserve(size_t(limits.batch_size));
  shares_.reserve(size_t(limits.batch_size));
}

/// Each alternative may need a page of its own for its token.
int Scheduler::most_pages(const Sequence& request) const {
  return table_.pages_for(int64_t(request.prompt) + request.max_new) +
         (request.alternatives > 1 ? request.alternatives : 0);
}

void Scheduler::submit(Sequence request) {
  request.prompt = request.length();
  if (request.prompt == 0) throw Error(ErrorCode::bad_request, "engine", "the prompt has no tokens");
  if (int64_t(request.prompt) + request.max_new > limits_.sequence_length) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("prompt and new tokens: expected at most ", limits_.sequence_length,
                    " tokens (the sequence length), got ", request.prompt, " + ", request.max_new));
  }
  if (const int needed = most_pages(request); needed > limits_.pages) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("cache pages: expected at most ", limits_.pages, ", the request needs ", needed));
  }
  if (const int needed = most_states(request); limits_.states > 0 && needed > limits_.states) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("states of recurrent layers: expected at most ", limits_.states, ", the request needs ", needed));
  }
  BB_CHECK(request.max_new > 0 && request.alternatives > 0);
  request.cache = request.cache && limits_.prefix_cache && request.alternatives == 1;
  const RequestId id = request.id;
  const auto place = waiting_.try_emplace(id, std::move(request)).first;
  try {
    queue_.push(id, place->second.priority, place->second.key);
  } catch (...) {
    waiting_.erase(place);
    throw;
  }
}

/// Pages that it counts on and does not have yet.
int Scheduler::outstanding(const Sequence& sequence) const {
  const int branches = sequence.branches.size() > 1 ? int(sequence.branches.size()) : 0;  // each with a page of its own
  return std::max(0, sequence.reserved - int(table_.pages(sequence.pages).size()) - branches);
}

/// Those that no other sequence may take.
int Scheduler::outstanding_of_branching() const {
  int pages = 0;
  if (branching_ == 0) return pages;
  for (const auto& [id, sequence] : active_) {
    if (sequence.alternatives > 1) pages += outstanding(sequence);
  }
  return pages;
}

/// Of all active sequences, at most.
int Scheduler::states_needed() const {
  int needed = 0;
  for (const auto& [id, sequence] : active_) needed += most_states(sequence);
  return needed;
}

/// Whether an active request computes more whole pages of this prompt than the `found` tokens that are there. It is to
/// leave a checkpoint there, where that is what is of use.
bool Scheduler::somebody_computes(Sequence& request, int found) {
  const auto begin = request.tokens.begin(), end = request.tokens.end() - 1;
  if (limits_.states > 0 && states_needed() + most_states(request) >= limits_.states) return false;
  for (auto& [id, other] : active_) {
    if (!other.cache || other.root != request.root || other.decodes()) continue;
    const auto differs = std::mismatch(begin, end, other.tokens.begin(), other.tokens.end()).first;
    const int whole = int(differs - begin) / limits_.page_size * limits_.page_size;
    if (whole <= found) continue;
    if (limits_.states == 0) {
      if (whole <= other.computed) continue;
    } else {
      if (whole < other.computed || whole >= other.prompt || whole < limits_.least_checkpoint) continue;
      if (std::find(other.stops.begin(), other.stops.end(), whole) == other.stops.end()) other.stops.push_back(whole);
    }
    request.awaits = {id, whole};
    return true;
  }
  return false;
}

Scheduler::Verdict Scheduler::ask(RequestId id, FunctionRef<Verdict(const Sequence&)> ready) {
  Sequence& request = waiting_.at(*(asked_ = id));
  if (const auto owner = active_.find(request.awaits.owner); owner != active_.end()) {
    // A checkpoint is in the tree once its owner has gone on from it.
    const int computed = owner->second.computed - (limits_.states > 0 ? 1 : 0);
    if (computed < request.awaits.until) return Verdict::awaits;
  }
  if (request.refused_at == state_) return Verdict::no_room;
  if (is_stretched(request) != request.stretched) {
    request.stretched = !request.stretched;
    request.root.back() ^= 1;  // pages of the other rotation are not to be found
  }
  PrefixTree::Match found;
  if (request.cache) {
    // At least one token is left to compute: it says what comes next.
    found = tree_.match(request.root, std::span<const int32_t>(request.tokens).first(request.tokens.size() - 1));
    if (somebody_computes(request, found.tokens)) return Verdict::not_yet;
  }
  if (limits_.states > 0 && states_needed() + most_states(request) > limits_.states) {
    request.refused_at = state_;
    return Verdict::no_room;
  }
  const int left = request.prompt + request.max_new - request.length();
  const int reserved = request.alternatives > 1 ? most_pages(request)
                                                : table_.pages_for(request.length() + std::min(left, limits_.ahead));
  const PageStats stats = table_.stats();
  int available = stats.free + stats.cached;
  for (const auto& [other, sequence] : active_) available -= outstanding(sequence);
  const auto needed = [&] {
    const auto used =
        std::count_if(found.pages.begin(), found.pages.end(), [&](int32_t p) { return table_.is_used(p); });
    // A page that is used in part will be copied, and is needed until then.
    return reserved - int(used) + int(found.tokens % limits_.page_size != 0);
  };
  if (const int part = found.tokens % limits_.page_size; part != 0 && needed() > available) {
    found.tokens -= part;
    found.pages.pop_back();
  }
  if (needed() > available) {
    request.refused_at = state_;
    return Verdict::no_room;
  }
  if (const Verdict verdict = ready(request); verdict != Verdict::fits) return verdict;

  request.tokens.reserve(size_t(request.prompt) + size_t(request.max_new));  // append() never fails
  request.stops.reserve(request.stops.size() + 1);
  request.pages = table_.open();
  try {
    table_.adopt(request.pages, found.pages, found.tokens);
  } catch (...) {
    table_.close(std::exchange(request.pages, -1));
    throw;
  }
  tree_.touch(found);
  states_.hold(request.state = found.state);
  if (found.whole > found.tokens) request.stops.push_back(found.whole);  // others may part there as well
  request.reserved = reserved;
  if (request.activation == 0) {
    queue_.charge(id, request.prompt);  // once, however often it is computed
    if (request.cache) counters_.looked_up += uint64_t(request.prompt);
    counters_.found += uint64_t(found.tokens);
    request.cached = found.tokens;
    request.activation = ++activations_;
  } else {
    counters_.recomputed += uint64_t(std::max(0, request.computed - found.tokens));
  }
  request.computed = found.tokens;
  request.cached = std::min(request.cached, request.computed);  // what is lost of it is its own to compute
  request.awaits = {};
  return Verdict::fits;
}

/// Where memory is short, those that became active before need to be told of first.
std::optional<RequestId> Scheduler::next_fitting(FunctionRef<Verdict(const Sequence&)> ready) {
  asked_.reset();
  try {
    // Who has begun goes on before others join.
    for (; !outgrown_.empty(); outgrown_.pop_back()) {
      const RequestId id = outgrown_.back();
      if (!waiting_.contains(id)) continue;
      if (ask(id, ready) != Verdict::fits) break;
      queue_.resume(id);
      outgrown_.pop_back();
      return id;
    }
    return queue_.next([&](RequestId asked) { return ask(asked, ready); });
  } catch (...) {
    if (activated_.empty()) throw;
    return std::nullopt;
  }
}

std::span<const RequestId> Scheduler::activate(FunctionRef<Verdict(const Sequence&)> ready) {
  activated_.clear();
  while (active() < limits_.batch_size) {
    const std::optional<RequestId> id = next_fitting(ready);
    if (!id) break;
    uint64_t turn = 0;
    bool first = true;
    for (const auto& [other, sequence] : active_) {
      if (sequence.decodes()) continue;
      turn = first ? sequence.turn : std::min(turn, sequence.turn);
      first = false;
    }
    const auto place = active_.insert(waiting_.extract(*id)).position;
    place->second.turn = turn;
    branching_ += place->second.alternatives > 1;
    activated_.push_back(*id);
  }
  return activated_;
}

int Scheduler::decoding() const {
  return int(std::count_if(active_.begin(), active_.end(),
                           [](const auto& entry) { return entry.second.decodes() || !entry.second.proposed.empty(); }));
}

Sequence& Scheduler::at(RequestId id) {
  const auto found = active_.find(id);
  if (found != active_.end()) return found->second;
  const auto waiting = waiting_.find(id);
  BB_CHECK(waiting != waiting_.end(), "request ", id);
  return waiting->second;
}

void Scheduler::append(RequestId id, int32_t token) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(sequence.settled() == sequence.length() && sequence.proposed.empty(), "request ", id);
  sequence.tokens.push_back(token);
  queue_.charge(id, 2);  // a token that is generated costs about two of a prompt
}

void Scheduler::propose(RequestId id, std::vector<int32_t> tokens) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(sequence.computed == sequence.length() && sequence.proposed.empty() && !tokens.empty(), "request ", id);
  BB_CHECK(sequence.alternatives > 1 && int(tokens.size()) <= sequence.alternatives, "request ", id, " alternatives ",
           tokens.size());
  sequence.proposed = std::move(tokens);
}

void Scheduler::keep_branch(RequestId id, int branch) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(branch >= 0 && size_t(branch) < sequence.branches.size(), "request ", id, " branch ", branch);
  if (sequence.branches.size() > 1) {
    table_.close(sequence.pages);
    for (size_t i = 0; i < sequence.branches.size(); ++i) {
      if (int(i) != branch) table_.close(sequence.branches[i]);
    }
    sequence.pages = sequence.branches[size_t(branch)];
  }
  if (limits_.states > 0) {
    for (size_t i = 0; i < sequence.branch_states.size(); ++i)
      if (int(i) != branch) states_.drop(sequence.branch_states[i]);
    states_.drop(std::exchange(sequence.state, sequence.branch_states[size_t(branch)]));
    sequence.branch_states.clear();
  }
  sequence.tokens.push_back(sequence.proposed[size_t(branch)]);
  sequence.computed = sequence.length();
  sequence.branches.clear();
  sequence.proposed.clear();
  queue_.charge(id, 2);
}

void Scheduler::truncate(RequestId id, int length) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(length >= sequence.prompt && length <= sequence.length() && sequence.branches.empty(), "request ", id,
           " length ", length);
  BB_CHECK(sequence.in_flight == 0, "request ", id);
  sequence.tokens.resize(size_t(length));
  sequence.proposed.clear();
  // The last token is computed anew where nothing would be left to predict from.
  const int kept = std::min(sequence.computed, std::max(length - 1, 0));
  if (kept < std::exchange(sequence.computed, kept)) forget_state(sequence);
  table_.truncate(sequence.pages, sequence.computed);
}

/// A state cannot go back: where a sequence loses its own, it begins anew.
void Scheduler::forget_state(Sequence& sequence) noexcept {
  if (limits_.states == 0) return;
  states_.drop(std::exchange(sequence.state, -1));
  sequence.computed = sequence.cached = 0;
}

void Scheduler::close(Sequence& sequence, Leaves leaves, bool first_to_leave) noexcept {
  if (leaves == Leaves::pages && sequence.cache) {
    tree_.insert(sequence.root, std::span<const int32_t>(sequence.tokens).first(size_t(sequence.settled())),
                 sequence.pages, first_to_leave);
  }
  for (PageTable::Sequence branch : sequence.branches) {
    if (branch != sequence.pages) table_.close(branch);
  }
  sequence.branches.clear();
  for (const int32_t state : sequence.branch_states) states_.drop(state);
  sequence.branch_states.clear();
  states_.drop(std::exchange(sequence.state, -1));
  table_.close(std::exchange(sequence.pages, -1));
  sequence.reserved = sequence.in_flight = 0;
  ++state_;
}

void Scheduler::finish(RequestId id, Leaves leaves) noexcept {
  queue_.erase(id);
  waiting_.erase(id);
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  close(found->second, leaves, false);
  branching_ -= found->second.alternatives > 1;
  active_.erase(found);
}

/// Alternatives cannot begin anew: they have the rotation of the length that they may come to.
bool Scheduler::is_stretched(const Sequence& sequence, int more) const {
  const int length = sequence.alternatives > 1 ? sequence.prompt + sequence.max_new : sequence.length() + more;
  return limits_.stretch_beyond > 0 && length > limits_.stretch_beyond;
}

void Scheduler::restart_outgrown() noexcept {
  for (auto it = active_.begin(); it != active_.end();) {
    Sequence& sequence = (it++)->second;
    if (is_stretched(sequence) == sequence.stretched) continue;
    if (outgrown_.size() < outgrown_.capacity()) outgrown_.push_back(sequence.id);  // else its turn is the queue's
    send_back(sequence);
  }
}

void Scheduler::preempt(Sequence& sequence) noexcept {
  send_back(sequence);
  ++counters_.preemptions;
}

/// `computed` keeps saying how far it was: so much is computed again.
void Scheduler::send_back(Sequence& sequence) noexcept {
  const RequestId id = sequence.id;
  close(sequence, Leaves::pages, true);
  sequence.slot = -1;
  sequence.adapters = nullptr;
  queue_.put_back(id);
  waiting_.insert(active_.extract(id));
  preempted_.push_back(id);
}

bool Scheduler::preempt() noexcept {
  Sequence *oldest = nullptr, *victim = nullptr;
  for (auto& [id, sequence] : active_) {
    if (oldest == nullptr || sequence.activation < oldest->activation) oldest = &sequence;
  }
  for (auto& [id, sequence] : active_) {
    if (&sequence == oldest || sequence.alternatives > 1) continue;
    if (victim == nullptr ||
        std::pair(sequence.priority, sequence.activation) > std::pair(victim->priority, victim->activation))
      victim = &sequence;
  }
  if (victim != nullptr) preempt(*victim);
  return victim != nullptr;
}

std::span<const RequestId> Scheduler::take_preempted() {
  told_.clear();
  told_.swap(preempted_);
  return told_;
}

std::optional<RequestId> Scheduler::youngest_active() const {
  const Sequence* found = nullptr;
  for (const auto& [id, sequence] : active_) {
    if (found == nullptr || sequence.activation > found->activation) found = &sequence;
  }
  return found != nullptr ? std::optional(found->id) : std::nullopt;
}

std::optional<RequestId> Scheduler::youngest() const {
  const std::optional<RequestId> active = youngest_active();
  return active || waiting_.empty() ? active : std::optional(waiting_.rbegin()->first);
}

void Scheduler::drop_cache() noexcept {
  tree_.evict_all();
  ++state_;
}

}  // namespace bumblebee::engine
