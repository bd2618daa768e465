// First come, first served, with reservations: simple enough to be fair and to never need preemption.
#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), table_(limits.pages, limits.page_size) {
  BB_CHECK(limits.batch_size > 0 && limits.prefill_chunk > 0 && limits.sequence_length > 0);
}

int Scheduler::pages_needed(const Sequence& request) const {
  const int whole = table_.pages_for(int64_t(request.prompt) + request.max_new);
  return whole +
         (request.alternatives > 1 ? request.alternatives : 0);  // each may need a page of its own for its token
}

void Scheduler::submit(Sequence request) {
  request.prompt = request.length();
  if (request.prompt == 0) throw Error(ErrorCode::bad_request, "engine", "the prompt has no tokens");
  if (int64_t(request.prompt) + request.max_new > limits_.sequence_length) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("prompt and new tokens: expected at most ", limits_.sequence_length,
                    " tokens (the sequence length), got ", request.prompt, " + ", request.max_new));
  }
  if (const int needed = pages_needed(request); needed > limits_.pages) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("cache pages: expected at most ", limits_.pages, ", the request needs ", needed));
  }
  BB_CHECK(request.max_new > 0 && request.alternatives > 0);
  waiting_.push_back(std::move(request));
}

std::vector<RequestId> Scheduler::activate() {
  std::vector<RequestId> activated;
  while (!waiting_.empty() && active() < limits_.batch_size) {
    const int needed = pages_needed(waiting_.front());
    if (reserved_ + needed > limits_.pages) break;
    const RequestId id = waiting_.front().id;
    activated.push_back(id);
    const auto [place, fresh] = active_.try_emplace(id);
    BB_CHECK(fresh, "request ", id, " twice");
    try {
      waiting_.front().tokens.reserve(size_t(waiting_.front().prompt) + size_t(waiting_.front().max_new));
      waiting_.front().pages = table_.open();
    } catch (...) {
      active_.erase(place);
      throw;
    }
    place->second = std::move(waiting_.front());
    waiting_.pop_front();
    place->second.reserved = needed;
    reserved_ += needed;
  }
  return activated;
}

void Scheduler::plan_branches(Sequence& sequence, std::vector<Piece>& pieces, std::vector<PageCopy>& copies) {
  const int past = sequence.length();
  if (sequence.proposed.size() == 1) {  // nothing to choose: it goes on in the sequence itself
    BB_CHECK(table_.extend(sequence.pages, 1, copies), "a reserved page is missing");
    sequence.branches.push_back(sequence.pages);
    pieces.push_back({&sequence, sequence.pages, sequence.proposed, past, 0, true});
    return;
  }
  for (size_t i = 0; i < sequence.proposed.size(); ++i) {
    sequence.branches.push_back(table_.fork(sequence.pages));
    BB_CHECK(table_.extend(sequence.branches.back(), 1, copies), "a reserved page is missing");
    pieces.push_back({&sequence, sequence.branches.back(), {&sequence.proposed[i], 1}, past, int(i), true});
  }
}

/// Up to `budget` of the tokens that are not computed yet; returns how many.
int Scheduler::plan(Sequence& sequence, int budget, std::vector<Piece>& pieces, std::vector<PageCopy>& copies) {
  const int rows = std::min(budget, sequence.length() - sequence.computed);
  if (rows <= 0) return 0;
  BB_CHECK(table_.extend(sequence.pages, rows, copies), "a reserved page is missing");
  const auto tokens = std::span<const int32_t>(sequence.tokens).subspan(size_t(sequence.computed), size_t(rows));
  const bool last = sequence.computed + rows == sequence.length();
  pieces.push_back({&sequence, sequence.pages, tokens, sequence.computed, 0, last});
  sequence.computed += rows;
  return rows;
}

std::optional<PlannedStep> Scheduler::next() {
  PlannedStep planned;
  std::vector<Piece> pieces;
  int budget = limits_.prefill_chunk;
  const auto generates = [](const Sequence& s) { return s.length() > s.prompt && s.computed >= s.prompt; };
  for (auto& [id, sequence] : active_) {
    if (!sequence.proposed.empty() && sequence.branches.empty()) plan_branches(sequence, pieces, planned.step.copies);
    if (generates(sequence)) plan(sequence, sequence.length() - sequence.computed, pieces, planned.step.copies);
  }
  for (auto& [id, sequence] : active_) {
    if (!generates(sequence)) budget -= plan(sequence, budget, pieces, planned.step.copies);
  }
  if (pieces.empty()) return std::nullopt;
  // Rows of one adapter lie together, so that its kernels work on runs of rows.
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.sequence->slot < b.sequence->slot; });
  for (const Piece& piece : pieces) {
    planned.step.batch.append(piece.tokens, piece.past, table_.pages(piece.pages),
                              piece.wants_logits ? Batch::Want::last : Batch::Want::none, piece.sequence->slot);
    planned.segments.push_back({piece.sequence->id, piece.branch, piece.wants_logits});
  }
  return planned;
}

Sequence& Scheduler::at(RequestId id) {
  const auto found = active_.find(id);
  if (found != active_.end()) return found->second;
  const auto waiting =
      std::find_if(waiting_.begin(), waiting_.end(), [id](const Sequence& request) { return request.id == id; });
  BB_CHECK(waiting != waiting_.end(), "request ", id);
  return *waiting;
}

void Scheduler::append(RequestId id, int32_t token) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(sequence.computed == sequence.length() && sequence.proposed.empty(), "request ", id);
  sequence.tokens.push_back(token);
}

void Scheduler::propose(RequestId id, std::vector<int32_t> tokens) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(sequence.computed == sequence.length() && sequence.proposed.empty() && !tokens.empty(), "request ", id);
  BB_CHECK(int(tokens.size()) <= sequence.alternatives, "request ", id, " alternatives ", tokens.size());
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
  sequence.tokens.push_back(sequence.proposed[size_t(branch)]);
  sequence.computed = sequence.length();
  sequence.branches.clear();
  sequence.proposed.clear();
}

void Scheduler::truncate(RequestId id, int length) {
  Sequence& sequence = active_.at(id);
  BB_CHECK(length >= sequence.prompt && length <= sequence.length() && sequence.branches.empty(), "request ", id,
           " length ", length);
  sequence.tokens.resize(size_t(length));
  sequence.proposed.clear();
  // The last token is computed anew where nothing would be left to predict from.
  sequence.computed = std::min(sequence.computed, std::max(length - 1, 0));
  table_.truncate(sequence.pages, sequence.computed);
}

void Scheduler::close(Sequence& sequence) {
  if (sequence.pages >= 0) table_.close(sequence.pages);
  for (PageTable::Sequence branch : sequence.branches) {
    if (branch != sequence.pages) table_.close(branch);
  }
  reserved_ -= sequence.reserved;
}

void Scheduler::finish(RequestId id) {
  const auto waiting =
      std::find_if(waiting_.begin(), waiting_.end(), [id](const Sequence& request) { return request.id == id; });
  if (waiting != waiting_.end()) waiting_.erase(waiting);
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  close(found->second);
  active_.erase(found);
}

}  // namespace bumblebee::engine
