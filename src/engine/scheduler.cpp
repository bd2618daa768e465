// First come, first served, with reservations: simple enough to be fair and to never need preemption.
#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace bumblebee::engine {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), table_(limits.pages, limits.page_size) {
  BB_CHECK(limits.batch_size > 0 && limits.prefill_chunk > 0 && limits.sequence_length > 0);
}

int Scheduler::pages_needed(const Admission& request) const {
  const int whole = table_.pages_for(int64_t(request.prompt.size()) + request.max_new);
  return whole + (request.branches > 1 ? request.branches : 0);  // each branch may need a page of its own for its token
}

void Scheduler::submit(Admission request) {
  if (request.prompt.empty()) throw Error(ErrorCode::bad_request, "engine", "the prompt has no tokens");
  const int64_t length = int64_t(request.prompt.size()) + request.max_new;
  if (length > limits_.sequence_length) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("prompt and new tokens: expected at most ", limits_.sequence_length,
                    " tokens (the sequence length), got ", request.prompt.size(), " + ", request.max_new));
  }
  if (const int needed = pages_needed(request); needed > limits_.pages) {
    throw Error(ErrorCode::bad_request, "engine",
                cat("cache pages: expected at most ", limits_.pages, ", the request needs ", needed));
  }
  BB_CHECK(request.max_new > 0 && request.branches > 0);
  waiting_.push_back(std::move(request));
}

void Scheduler::admit() {
  while (!waiting_.empty() && active() < limits_.batch_size) {
    const int needed = pages_needed(waiting_.front());
    if (reserved_ + needed > limits_.pages) return;
    Active active{.request = std::move(waiting_.front()),
                  .sequence = table_.open(),
                  .reserved = needed,
                  .done = 0,
                  .next = {},
                  .branches = {}};
    waiting_.pop_front();
    reserved_ += needed;
    const RequestId id = active.request.id;
    BB_CHECK(active_.emplace(id, std::move(active)).second, "request ", id, " twice");
  }
}

void Scheduler::plan_decode(Active& active, std::vector<Piece>& pieces, std::vector<PageCopy>& copies) {
  const std::vector<int32_t> tokens = std::exchange(active.next, {});
  const int past = table_.length(active.sequence);
  if (tokens.size() == 1) {
    BB_CHECK(table_.extend(active.sequence, 1, copies), "a reserved page is missing");
    pieces.push_back({&active, active.sequence, tokens, past, 0, true});
    return;
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    active.branches.push_back(table_.fork(active.sequence));
    BB_CHECK(table_.extend(active.branches.back(), 1, copies), "a reserved page is missing");
    pieces.push_back({&active, active.branches.back(), {tokens[i]}, past, int(i), true});
  }
}

int Scheduler::plan_prefill(Active& active, int budget, std::vector<Piece>& pieces, std::vector<PageCopy>& copies) {
  const auto& prompt = active.request.prompt;
  const int rows = std::min(budget, int(prompt.size()) - active.done);
  BB_CHECK(table_.extend(active.sequence, rows, copies), "a reserved page is missing");
  const auto first = prompt.begin() + active.done;
  pieces.push_back(
      {&active, active.sequence, {first, first + rows}, active.done, 0, active.done + rows == int(prompt.size())});
  active.done += rows;
  return rows;
}

std::optional<Step> Scheduler::next() {
  admit();
  Step step;
  std::vector<Piece> pieces;
  int budget = limits_.prefill_chunk;
  for (auto& [id, active] : active_) {
    if (!active.next.empty()) plan_decode(active, pieces, step.copies);
  }
  for (auto& [id, active] : active_) {
    if (budget > 0 && active.done < int(active.request.prompt.size()))
      budget -= plan_prefill(active, budget, pieces, step.copies);
  }
  if (pieces.empty()) return std::nullopt;
  // Rows of one adapter lie together, so that its kernels work on runs of rows.
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.active->request.slot < b.active->request.slot; });
  for (const Piece& piece : pieces) {
    step.batch.append(piece.tokens, piece.past, table_.pages(piece.sequence),
                      piece.wanted ? Batch::Want::last : Batch::Want::none, piece.active->request.slot);
    step.segments.push_back({piece.active->request.id, piece.branch, piece.wanted});
  }
  return step;
}

void Scheduler::proceed(RequestId id, std::vector<int32_t> tokens) {
  Active& active = active_.at(id);
  BB_CHECK(active.next.empty() && active.branches.empty() && !tokens.empty(), "request ", id);
  BB_CHECK(int(tokens.size()) <= active.request.branches, "request ", id, " branches ", tokens.size());
  active.next = std::move(tokens);
}

void Scheduler::choose(RequestId id, int branch) {
  Active& active = active_.at(id);
  if (active.branches.empty()) return;  // a single token went on in the sequence itself
  BB_CHECK(branch >= 0 && size_t(branch) < active.branches.size(), "request ", id, " branch ", branch);
  table_.close(active.sequence, &freed_);
  for (size_t i = 0; i < active.branches.size(); ++i) {
    if (int(i) != branch) table_.close(active.branches[i], &freed_);
  }
  active.sequence = active.branches[size_t(branch)];
  active.branches.clear();
}

void Scheduler::finish(RequestId id) {
  std::erase_if(waiting_, [id](const Admission& request) { return request.id == id; });
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  table_.close(found->second.sequence, &freed_);
  for (PageTable::Sequence branch : found->second.branches) table_.close(branch, &freed_);
  reserved_ -= found->second.reserved;
  active_.erase(found);
}

std::vector<int32_t> Scheduler::take_freed() { return std::exchange(freed_, {}); }

}  // namespace bumblebee::engine
