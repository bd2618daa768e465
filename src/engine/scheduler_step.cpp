// What the next step computes: rows are shared out, sequences grow by them, and what grew is laid out as a batch.
#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "engine/scheduler.h"

namespace bumblebee::engine {
namespace {

/// Rows of a prompt in one step that are worth their overhead.
constexpr int kLeastShare = 64;

}  // namespace

/// Every active sequence with the rows that it is to compute, in the order in which pages are taken: the oldest first,
/// then by priority and age.
void Scheduler::share_out(int prompt_rows) {
  shares_.clear();
  for (auto& [id, sequence] : active_) shares_.push_back({&sequence, sequence.decodes() ? 1 : 0});
  const auto age = [](const Share& share) { return share.sequence->activation; };
  const auto left = [](const Share& share) {
    return share.sequence->decodes() ? 0 : share.sequence->length() - share.sequence->computed - share.rows;
  };
  const auto give = [&](Share& share, int rows) {
    rows = std::min({rows, left(share), prompt_rows});
    share.rows += rows;
    prompt_rows -= rows;
  };
  const int quarter = std::max(1, prompt_rows / 4), quantum = std::max(kLeastShare, quarter);
  // By age, so that whoever comes first of those with a prompt left has his quarter, and in the end the rest.
  std::sort(shares_.begin(), shares_.end(), [&](const Share& a, const Share& b) { return age(a) < age(b); });
  const auto first = std::find_if(shares_.begin(), shares_.end(), [&](const Share& share) { return left(share) > 0; });
  if (first != shares_.end()) give(*first, quarter);
  const auto before = [&](const Share& a, const Share& b) {
    return std::tuple(a.sequence->turn, left(a), age(a)) < std::tuple(b.sequence->turn, left(b), age(b));
  };
  std::sort(shares_.begin(), shares_.end(), before);
  for (Share& share : shares_) {
    if (left(share) == 0 || prompt_rows == 0) continue;
    give(share, quantum - share.rows);
    ++share.sequence->turn;
  }
  std::sort(shares_.begin(), shares_.end(), [&](const Share& a, const Share& b) { return age(a) < age(b); });
  for (Share& share : shares_) give(share, prompt_rows);
  std::sort(shares_.begin() + 1, shares_.end(), [&](const Share& a, const Share& b) {
    return std::pair(a.sequence->priority, age(a)) < std::pair(b.sequence->priority, age(b));
  });
}

/// As PageTable::extend(), with what only the tree holds making room.
bool Scheduler::extend(Sequence& sequence, int rows, std::vector<PageCopy>& copies) {
  const int needed = table_.pages_for(int64_t(table_.length(sequence.pages)) + rows) -
                     int(table_.pages(sequence.pages).size()) + int(table_.copies_before_write(sequence.pages));
  const PageStats stats = table_.stats();
  const int others = outstanding_of_branching() - (sequence.alternatives > 1 ? outstanding(sequence) : 0);
  if (needed > stats.free + stats.cached - others) return false;
  while (table_.stats().free < needed) BB_CHECK(tree_.evict(), "a page is nobody's and cannot leave");
  return table_.extend(sequence.pages, rows, copies);
}

/// Gives up the place of the last sequence from here on; false when this one is the oldest, or nobody can be given up.
bool Scheduler::preempt_behind(size_t share) noexcept {
  for (size_t i = shares_.size() - 1; i >= std::max<size_t>(share, 1); --i) {
    if (shares_[i].sequence == nullptr || shares_[i].sequence->alternatives > 1) continue;
    preempt(*std::exchange(shares_[i].sequence, nullptr));
    return true;
  }
  return false;
}

void Scheduler::plan_branches(Sequence& sequence, std::vector<PageCopy>& copies) {
  const int past = sequence.length();
  sequence.branches.reserve(sequence.proposed.size());
  for (size_t i = 0; i < sequence.proposed.size(); ++i) {
    // With nothing to choose, it goes on in the sequence itself.
    const bool alone = sequence.proposed.size() == 1;
    sequence.branches.push_back(alone ? sequence.pages : table_.fork(sequence.pages));
    const size_t before = copies.size();
    const int needed = table_.pages_for(past + 1) - table_.pages_for(past) + 1;
    while (table_.stats().free < needed && tree_.evict()) {
    }
    BB_CHECK(table_.extend(sequence.branches.back(), 1, copies), "a reserved page is missing");
    pieces_.push_back(
        {&sequence, sequence.branches.back(), {&sequence.proposed[i], 1}, past, int(i), true, copies.size() > before});
  }
}

void Scheduler::grow(size_t share, std::vector<PageCopy>& copies) {
  Sequence& sequence = *shares_[share].sequence;
  if (!sequence.proposed.empty() && sequence.branches.empty()) return plan_branches(sequence, copies);
  int rows = shares_[share].rows;
  while (rows > 0) {
    const bool copied = table_.copies_before_write(sequence.pages);
    if (extend(sequence, rows, copies)) {
      const auto tokens = std::span<const int32_t>(sequence.tokens).subspan(size_t(sequence.computed), size_t(rows));
      const bool last = sequence.computed + rows == sequence.length();
      pieces_.push_back({&sequence, sequence.pages, tokens, sequence.computed, 0, last, copied});
      sequence.computed += rows;
      return;
    }
    // Fewer rows, up to the end of the page; else a page that would be copied is computed instead; else somebody goes.
    const int past = table_.length(sequence.pages), page = limits_.page_size;
    const int to_border = (page - past % page) % page;
    if (!copied && to_border > 0 && rows > to_border) {
      rows = to_border;
    } else if (rows > page) {
      rows = std::max(page, rows / 2);
    } else if (copied) {
      sequence.computed = past / page * page;
      sequence.cached = std::min(sequence.cached, sequence.computed);
      table_.truncate(sequence.pages, sequence.computed);
    } else if (!preempt_behind(share) || shares_[share].sequence == nullptr) {
      return;  // it waits, or is gone
    }
  }
}

std::optional<PlannedStep> Scheduler::next(int prompt_rows) {
  BB_CHECK(prompt_rows > 0);
  if (active_.empty()) return std::nullopt;
  PlannedStep planned;
  pieces_.clear();
  size_t most_pieces = 0;
  for (const auto& [id, sequence] : active_) most_pieces += size_t(sequence.alternatives);
  pieces_.reserve(most_pieces);
  planned.segments.reserve(most_pieces);
  planned.step.copies.reserve(most_pieces);
  try {
    share_out(prompt_rows);
    for (size_t i = 0; i < shares_.size(); ++i) {
      if (shares_[i].sequence != nullptr) grow(i, planned.step.copies);
    }
    // Rows of one adapter lie together, so that its kernels work on runs of rows.
    std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
      return std::pair(a.sequence->slot, a.sequence->id) < std::pair(b.sequence->slot, b.sequence->id);
    });
    for (const Piece& piece : pieces_) {
      planned.step.batch.append(piece.tokens, piece.past, table_.pages(piece.pages),
                                piece.wants_logits ? Batch::Want::last : Batch::Want::none, piece.sequence->slot);
      planned.segments.push_back({piece.sequence->id, piece.branch, piece.wants_logits, piece.copies});
      if (piece.past >= piece.sequence->prompt) planned.decode_rows += int(piece.tokens.size());
    }
  } catch (...) {
    for (const Piece& piece : pieces_) take_back(*piece.sequence, int(piece.tokens.size()), piece.copies);
    for (auto& [id, sequence] : active_) take_back(sequence, 0, false);
    throw;
  }
  if (pieces_.empty()) return std::nullopt;
  return planned;
}

/// `rows` were planned and not computed; `copies`: a page may have been meant to be a copy and hold nothing.
void Scheduler::take_back(Sequence& sequence, int rows, bool copies) noexcept {
  if (!sequence.proposed.empty()) {
    for (const PageTable::Sequence branch : sequence.branches) {
      if (branch != sequence.pages) table_.close(branch);
    }
    sequence.branches.clear();
    table_.truncate(sequence.pages, sequence.length());
    return;
  }
  sequence.computed -= rows;
  if (copies) sequence.computed -= sequence.computed % limits_.page_size;
  sequence.cached = std::min(sequence.cached, sequence.computed);
  table_.truncate(sequence.pages, sequence.computed);
}

void Scheduler::undo(const PlannedStep& planned) noexcept {
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const StepSegment& segment = planned.segments[i];
    if (const auto found = active_.find(segment.id); found != active_.end())
      take_back(found->second, planned.step.batch.segments[i].rows, segment.copies);
  }
  ++state_;
}

/// Whole pages of prompts are of use to others as soon as they are computed.
void Scheduler::done(const PlannedStep& planned) noexcept {
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const Segment& rows = planned.step.batch.segments[i];
    const auto found = active_.find(planned.segments[i].id);
    if (found == active_.end() || !found->second.cache || rows.past >= found->second.prompt) continue;
    Sequence& sequence = found->second;
    if (rows.past / limits_.page_size == sequence.computed / limits_.page_size) continue;
    tree_.insert(sequence.root, std::span<const int32_t>(sequence.tokens).first(size_t(sequence.computed)),
                 sequence.pages);
    ++state_;
  }
}

}  // namespace bumblebee::engine
