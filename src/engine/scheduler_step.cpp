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

/// Whether the state after so many tokens of a prompt is worth keeping: at the end of its whole pages, every so often,
/// and where other prompts part from it.
bool Scheduler::is_stop(const Sequence& s, int position) const {
  const int page = limits_.page_size;
  if (!s.cache || position < std::max(limits_.least_checkpoint, 1) || position >= s.prompt || position % page != 0)
    return false;
  return position == (s.prompt - 1) / page * page || position % limits_.checkpoint_interval == 0 ||
         std::find(s.stops.begin(), s.stops.end(), position) != s.stops.end();
}

/// How far a sequence may be computed in one step.
int Scheduler::next_stop(const Sequence& s) const {
  if (limits_.states == 0 || s.decodes()) return s.length();
  const int page = limits_.page_size;
  for (int position = (s.computed / page + 1) * page; position < s.prompt; position += page)
    if (is_stop(s, position)) return position;
  return s.length();
}

/// One that is free, or becomes so at the cost of a checkpoint; -1 where there is none.
int32_t Scheduler::take_state() {
  while (states_.free() == 0 && tree_.evict_state()) {
  }
  return states_.take();
}

/// Where a piece finds its past, and a place for what it leaves, which the caller has to hold or drop. False when it
/// has to wait for a step that reads its own state.
bool Scheduler::plan_state(const Sequence& sequence, Piece& piece) {
  const int32_t from = sequence.state;
  piece.keeps_from = from >= 0 && spare_states_ > 0 && is_stop(sequence, sequence.computed);
  piece.state = {from, from};
  piece.owns_from = false;
  if (from >= 0 && states_.is_alone(from) && !piece.keeps_from) return true;
  piece.state.to = take_state();
  if (piece.state.to < 0 && from >= 0) {  // the cache gives up what this one goes on from
    tree_.forget_state(from);
    piece.keeps_from = false;
    piece.state.to = from;
    return states_.is_alone(from);
  }
  if (piece.state.to < 0)
    return false;  // the step holds one more than was counted on, where others part from a checkpoint
  piece.owns_from = from >= 0;
  spare_states_ -= piece.keeps_from;
  return true;
}

void Scheduler::plan_branches(Sequence& sequence, std::vector<PageCopy>& copies) {
  if (limits_.states > 0 && states_.free() + states_.cached() < int(sequence.proposed.size()))
    return;  // as in plan_state
  const int past = sequence.length();
  sequence.branches.reserve(sequence.proposed.size());
  sequence.branch_states.reserve(sequence.proposed.size());
  for (size_t i = 0; i < sequence.proposed.size(); ++i) {
    // With nothing to choose, it goes on in the sequence itself.
    const bool alone = sequence.proposed.size() == 1;
    sequence.branches.push_back(alone ? sequence.pages : table_.fork(sequence.pages));
    const size_t before = copies.size();
    const int needed = table_.pages_for(past + 1) - table_.pages_for(past) + 1;
    while (table_.stats().free < needed && tree_.evict()) {
    }
    BB_CHECK(table_.extend(sequence.branches.back(), 1, copies), "a reserved page is missing");
    StateSlots state;
    if (limits_.states > 0) {
      state = {sequence.state, take_state()};
      BB_CHECK(state.to >= 0, "a state that was counted on is missing");
      sequence.branch_states.push_back(state.to);
    }
    pieces_.push_back({&sequence,
                       sequence.branches.back(),
                       {&sequence.proposed[i], 1},
                       past,
                       int(i),
                       true,
                       copies.size() > before,
                       state});
  }
}

/// Rows whose pages are there.
void Scheduler::add_piece(Sequence& sequence, int rows, bool copied) {
  const auto tokens = std::span<const int32_t>(sequence.tokens).subspan(size_t(sequence.computed), size_t(rows));
  const bool last = sequence.computed + rows == sequence.length();
  Piece piece{&sequence, sequence.pages, tokens, sequence.computed, 0, last, copied};
  if (limits_.states > 0) {
    if (!plan_state(sequence, piece)) return table_.truncate(sequence.pages, sequence.computed);
    sequence.state = piece.state.to;
  }
  pieces_.push_back(piece);  // which has room
  sequence.computed += rows;
  sequence.in_flight += rows;
}

void Scheduler::grow(size_t share, std::vector<PageCopy>& copies) {
  Sequence& sequence = *shares_[share].sequence;
  if (!sequence.proposed.empty() && sequence.branches.empty()) return plan_branches(sequence, copies);
  int rows = std::min(shares_[share].rows, next_stop(sequence) - sequence.computed);
  while (rows > 0) {
    const bool copied = table_.copies_before_write(sequence.pages);
    if (extend(sequence, rows, copies)) return add_piece(sequence, rows, copied);
    // Fewer rows, up to the end of the page; else a page that would be copied is computed instead; else somebody goes.
    const int past = table_.length(sequence.pages), page = limits_.page_size;
    const int to_border = (page - past % page) % page;
    if (!copied && to_border > 0 && rows > to_border) {
      rows = to_border;
    } else if (rows > page) {
      rows = std::max(page, rows / 2);
    } else if (copied) {
      BB_CHECK(limits_.states == 0, "a sequence with a state shares a page that it writes");
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
  spare_states_ = limits_.states - states_needed();
  try {
    share_out(prompt_rows);
    for (size_t i = 0; i < shares_.size(); ++i) {
      if (shares_[i].sequence != nullptr) grow(i, planned.step.copies);
    }
    // Who has rows may lack pages that one without rows counts on, where it lost a state and computes a prompt again.
    for (size_t i = 0; i < shares_.size() && pieces_.empty(); ++i) {
      Share& share = shares_[i];
      if (share.sequence == nullptr || share.rows > 0 || share.sequence->decodes()) continue;
      share.rows = std::min(prompt_rows, share.sequence->length() - share.sequence->computed);
      grow(i, planned.step.copies);
    }
    // Rows of one adapter lie together, so that its kernels work on runs of rows.
    std::stable_sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
      return std::pair(a.sequence->slot, a.sequence->id) < std::pair(b.sequence->slot, b.sequence->id);
    });
    for (const Piece& piece : pieces_) {
      planned.step.batch.append(piece.tokens, piece.past, table_.pages(piece.pages),
                                piece.wants_logits ? Batch::Want::last : Batch::Want::none, piece.sequence->slot,
                                piece.state);
      planned.step.batch.segments.back().stretched = piece.sequence->stretched;
      planned.segments.push_back(
          {piece.sequence->id, piece.branch, piece.wants_logits, piece.copies, piece.owns_from, piece.keeps_from});
      if (piece.past >= piece.sequence->prompt) planned.decode_rows += int(piece.tokens.size());
    }
  } catch (...) {
    for (const Piece& piece : pieces_)
      take_back(*piece.sequence, int(piece.tokens.size()), piece.copies, piece.state, piece.owns_from, false);
    for (auto& [id, sequence] : active_) take_back(sequence, 0, false, {}, false, false);
    throw;
  }
  if (pieces_.empty()) return std::nullopt;
  return planned;
}

/// Whether all that are active go on by one row after `planned`, or end with it.
bool Scheduler::foresees(const PlannedStep& planned) const {
  if (limits_.states > 0) return false;
  size_t found = 0;
  for (const StepSegment& segment : planned.segments) {
    const auto at = active_.find(segment.id);
    if (at == active_.end()) continue;  // it ended while the step was on its way
    const Sequence& sequence = at->second;
    if (!segment.wants_logits || sequence.alternatives > 1) return false;
    if (is_stretched(sequence, 1) != sequence.stretched || table_.copies_before_write(sequence.pages)) return false;
    ++found;
  }
  return found == active_.size();
}

/// False where there is no page for it.
bool Scheduler::add_ahead(Sequence& sequence, int logit_row, PlannedStep& ahead) {
  if (!extend(sequence, 1, ahead.step.copies)) return false;
  try {
    const int32_t token = Batch::chosen(logit_row);
    ahead.step.batch.append({&token, 1}, sequence.length(), table_.pages(sequence.pages), Batch::Want::last,
                            sequence.slot);
  } catch (...) {
    table_.truncate(sequence.pages, sequence.computed);
    throw;
  }
  ahead.step.batch.segments.back().stretched = sequence.stretched;
  ahead.segments.push_back({.id = sequence.id, .wants_logits = true});  // which has room
  ++sequence.computed;
  ++sequence.in_flight;
  return true;
}

std::optional<PlannedStep> Scheduler::next_ahead(const PlannedStep& planned) {
  if (!foresees(planned)) return std::nullopt;
  PlannedStep ahead;
  ahead.segments.reserve(planned.segments.size());
  try {
    for (size_t i = 0; i < planned.segments.size(); ++i) {
      const auto at = active_.find(planned.segments[i].id);
      if (at == active_.end()) continue;
      Sequence& sequence = at->second;
      if (sequence.length() + 1 - sequence.prompt >= sequence.max_new) continue;  // it ends with `planned`
      if (add_ahead(sequence, int(i), ahead)) continue;
      undo(ahead);
      return std::nullopt;
    }
  } catch (...) {
    undo(ahead);
    throw;
  }
  ahead.decode_rows = int(ahead.segments.size());
  if (ahead.segments.empty()) return std::nullopt;
  return ahead;
}

/// `rows` were planned and not computed; `copies`: a page may have been meant to be a copy and hold nothing; `begun`:
/// what was to be written may have been.
void Scheduler::take_back(Sequence& sequence, int rows, bool copies, StateSlots state, bool owns_from,
                          bool begun) noexcept {
  if (!sequence.proposed.empty()) {
    for (const PageTable::Sequence branch : sequence.branches) {
      if (branch != sequence.pages) table_.close(branch);
    }
    sequence.branches.clear();
    for (const int32_t branch : sequence.branch_states) states_.drop(branch);
    sequence.branch_states.clear();
    table_.truncate(sequence.pages, sequence.length());
    return;
  }
  sequence.computed -= rows;
  sequence.in_flight -= rows;
  if (copies) sequence.computed -= sequence.computed % limits_.page_size;
  if (owns_from) {
    states_.drop(std::exchange(sequence.state, state.from));  // which nobody wrote
  } else if (rows > 0 && (begun || state.from < 0)) {
    forget_state(sequence);
  }
  sequence.cached = std::min(sequence.cached, sequence.computed);
  table_.truncate(sequence.pages, sequence.computed);
}

void Scheduler::undo(const PlannedStep& planned) noexcept {
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const StepSegment& segment = planned.segments[i];
    const Segment& rows = planned.step.batch.segments[i];
    if (const auto found = active_.find(segment.id); found != active_.end()) {
      take_back(found->second, rows.rows, segment.copies, rows.state, segment.owns_from, true);
    } else if (segment.owns_from) {
      states_.drop(rows.state.from);
    }
  }
  ++state_;
}

/// What rows of a prompt leave to others.
void Scheduler::keep(Sequence& sequence, const Segment& rows, bool keeps_from) noexcept {
  const std::span<const int32_t> tokens(sequence.tokens);
  if (rows.past / limits_.page_size != sequence.settled() / limits_.page_size) {
    tree_.insert(sequence.root, tokens.first(size_t(sequence.settled())), sequence.pages);
    ++state_;
  }
  if (keeps_from) tree_.keep_state(sequence.root, tokens.first(size_t(rows.past)), rows.state.from);
}

/// Whole pages of prompts are of use to others as soon as they are computed.
void Scheduler::done(const PlannedStep& planned) noexcept {
  for (size_t i = 0; i < planned.segments.size(); ++i) {
    const Segment& rows = planned.step.batch.segments[i];
    if (const auto found = active_.find(planned.segments[i].id); found != active_.end()) {
      Sequence& sequence = found->second;
      if (sequence.proposed.empty()) sequence.in_flight -= rows.rows;
      if (sequence.cache && rows.past < sequence.prompt) keep(sequence, rows, planned.segments[i].keeps_from);
    }
    if (planned.segments[i].owns_from) states_.drop(rows.state.from);
  }
}

}  // namespace bumblebee::engine
