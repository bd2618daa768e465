// Decides what the next step computes. Pure logic: no threads, no device, no clock, so every schedule can be tested.
//
// Policy. FairQueue says who is next; a request becomes active when a place in the batch is free and its prompt and
// 256 more tokens fit beside what others may count on. Its prompt's beginning is taken from the PrefixTree; where an
// active request is just computing more of it, it waits for that. A step holds one row (or one per alternative) for
// every sequence that is generating, and rows of prompts up to a budget: a quarter for the oldest, a share for each of
// the others, who had least first, and the rest for the oldest. Both travel in one batch, so that the weights are read
// once for all of them. When pages run short, what only the tree holds leaves first; then the sequence of the worst
// priority and, among those, the one that became active last gives up its place, never the oldest of all. It goes on
// later with the same bits, since no row depends on its company. A sequence with alternatives reserves all it may need
// and is never given up: its state lies outside of the pages.
//
// Recurrent layers keep one state of a sequence. A step that goes on from a state that others may go on from as well (a
// checkpoint in the tree, the parent of alternatives) leaves its own in another place, else in the same. Prompts are
// cut where a checkpoint is to be: the step that goes on from there takes another place, and the tree the old one.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "engine/fair_queue.h"
#include "engine/prefix_tree.h"
#include "engine/sequence.h"
#include "exec/executor.h"

namespace bumblebee::engine {

struct SchedulerLimits {
  int batch_size = 1;       // sequences computed at once
  int sequence_length = 0;  // of prompt and output together
  int pages = 0, page_size = 64;
  int max_active_per_key = 0;  // 0: any number
  bool prefix_cache = true;
  int stretch_beyond = 0;  // nn::ModelDims
  int ahead = 256;         // tokens of an answer that must fit beside its prompt before it begins
  /// Of a model with recurrent layers, else 0: how many the store has. What sequences do not need keeps checkpoints, at
  /// the end of a prompt's whole pages and every so many tokens (whole pages), where there are as many as are worth
  /// one.
  int states = 0, checkpoint_interval = 2048, least_checkpoint = 256;
};

/// What a segment of the batch belongs to.
struct StepSegment {
  RequestId id = 0;
  int branch = 0;
  bool wants_logits = false;  // its last row is the next of the batch's logit rows
  bool copies = false;        // a page is copied for it first
  bool owns_from = false;     // the state that it goes on from is nobody's but the step's
  bool keeps_from = false;    // the tree is to hold that on
};

struct PlannedStep {
  exec::Step step;
  std::vector<StepSegment> segments;  // parallel to step.batch.segments
  int decode_rows = 0;                // of sequences that generate
};

struct SchedulerCounters {
  uint64_t looked_up = 0, found = 0;  // tokens of prompts, in the tree
  uint64_t preemptions = 0, recomputed = 0;
};

class Scheduler {
 public:
  using Verdict = FairQueue::Verdict;
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a request. Throws Error(bad_request) for an empty prompt and for a request that could never fit.
  void submit(Sequence request);
  /// Activates waiting requests that can run now, and returns them; their adapters need slots before next(). `ready` is
  /// asked last: whether what else a request needs is there. When it throws, none became active, and asked() is whose
  /// turn it was, if anybody's.
  std::span<const RequestId> activate(FunctionRef<Verdict(const Sequence&)> ready);
  std::span<const RequestId> activate() {
    return activate([](const Sequence&) { return Verdict::fits; });
  }
  std::optional<RequestId> asked() const { return asked_; }
  /// The next step of the active requests, with at most `prompt_rows` rows of prompts, or nothing when none can go on.
  /// After it comes done() or undo(). When it throws, nothing is planned.
  std::optional<PlannedStep> next(int prompt_rows);
  /// The step after `planned`, which is on its way: a row for each of its sequences that no length ends, with the token
  /// that it chooses (Batch::chosen). Nothing where more is to come than that: rows of prompts, alternatives, a
  /// rotation that ends, pages of others; and nothing for recurrent layers, whose state could not go back. After it
  /// come done() of `planned` with what belongs to it, then done() or undo() of this one; or undo() of this one first
  /// of all.
  std::optional<PlannedStep> next_ahead(const PlannedStep& planned);
  /// The step was computed: every request with a segment that wants logits needs append(), propose() or finish() now.
  void done(const PlannedStep& planned) noexcept;
  /// The step was not computed.
  void undo(const PlannedStep& planned) noexcept;
  /// Sends sequences back that have outgrown their rotation: what is cached of them is of no use to them any more.
  void restart_outgrown() noexcept;
  /// Requests that next(), preempt() or restart_outgrown() sent back to the queue since this was last asked. They need
  /// no slots there.
  std::span<const RequestId> take_preempted();

  /// The token that was chosen after the last one.
  void append(RequestId id, int32_t token);
  /// Alternatives for the next token: each is computed in a branch of its own, of which keep_branch() keeps one.
  void propose(RequestId id, std::vector<int32_t> tokens);
  void keep_branch(RequestId id, int branch);
  /// Forgets the tokens from `length` on, which is at least the prompt's; those that are kept and computed stay so.
  void truncate(RequestId id, int length);
  /// Forgets a request, wherever it is; unknown ids are fine. Its pages are free afterwards, or the tree's where
  /// `leaves` says that what they hold is right. Never fails.
  enum class Leaves : uint8_t { nothing, pages };
  void finish(RequestId id, Leaves leaves = Leaves::nothing) noexcept;

  /// Between steps: sends the active request of the worst priority that became active last back to the queue; false
  /// when there is none beside the oldest.
  bool preempt() noexcept;
  /// The active request that became active last.
  std::optional<RequestId> youngest_active() const;
  /// The same; where none is active, the one that came last.
  std::optional<RequestId> youngest() const;
  /// Gives up what only the tree holds.
  void drop_cache() noexcept;

  /// An active or waiting request.
  Sequence& at(RequestId id);
  bool is_active(RequestId id) const { return active_.contains(id); }
  bool idle() const { return waiting_.empty() && active_.empty(); }
  int active() const { return int(active_.size()); }
  int waiting() const { return int(waiting_.size()); }
  /// Requests whose answers grow, whom a long step would hold up.
  int decoding() const;
  PageStats pages() const { return table_.stats(); }
  const StateTable& states() const { return states_; }
  const SchedulerCounters& counters() const { return counters_; }
  bool has_freed() const { return table_.has_freed(); }
  std::vector<int32_t> take_freed(int most) { return table_.take_freed(most); }

 private:
  struct Piece {
    Sequence* sequence = nullptr;
    PageTable::Sequence pages = 0;
    std::span<const int32_t> tokens;
    int past = 0, branch = 0;
    bool wants_logits = false, copies = false;
    StateSlots state = {};
    bool owns_from = false, keeps_from = false;
  };
  /// An active sequence while a step is planned.
  struct Share {
    Sequence* sequence = nullptr;  // null: preempted
    int rows = 0;                  // of its own that it is to compute
  };
  int most_pages(const Sequence& request) const;
  int outstanding(const Sequence& sequence) const;
  int outstanding_of_branching() const;
  std::optional<RequestId> next_fitting(FunctionRef<Verdict(const Sequence&)> ready);
  Verdict ask(RequestId id, FunctionRef<Verdict(const Sequence&)> ready);
  bool somebody_computes(Sequence& request, int found);
  int states_needed() const;
  int next_stop(const Sequence& sequence) const;
  bool is_stop(const Sequence& sequence, int position) const;
  int32_t take_state();
  bool plan_state(const Sequence& sequence, Piece& piece);
  void forget_state(Sequence& sequence) noexcept;
  void share_out(int prompt_rows);
  bool extend(Sequence& sequence, int rows, std::vector<PageCopy>& copies);
  void add_piece(Sequence& sequence, int rows, bool copied);
  bool foresees(const PlannedStep& planned) const;
  bool add_ahead(Sequence& sequence, int logit_row, PlannedStep& ahead);
  void keep(Sequence& sequence, const Segment& rows, bool keeps_from) noexcept;
  void grow(size_t share, std::vector<PageCopy>& copies);
  void plan_branches(Sequence& sequence, std::vector<PageCopy>& copies);
  bool preempt_behind(size_t share) noexcept;
  void preempt(Sequence& sequence) noexcept;
  void send_back(Sequence& sequence) noexcept;
  bool is_stretched(const Sequence& sequence, int more = 0) const;
  void take_back(Sequence& sequence, int rows, bool copies, StateSlots state, bool owns_from, bool begun) noexcept;
  void close(Sequence& sequence, Leaves leaves, bool first_to_leave) noexcept;

  SchedulerLimits limits_;
  PageTable table_;
  StateTable states_;
  PrefixTree tree_;
  FairQueue queue_;
  std::map<RequestId, Sequence> waiting_, active_;
  SchedulerCounters counters_;
  uint64_t activations_ = 0;
  int branching_ = 0;     // active sequences with alternatives
  int spare_states_ = 0;  // that the step being planned may turn into checkpoints
  uint64_t state_ = 1;    // changes whenever a request that did not fit may fit now
  std::optional<RequestId> asked_;
  // With room for all that may be active, so that planning fails early or not at all.
  std::vector<RequestId> activated_, preempted_, told_;
  std::vector<RequestId> outgrown_;  // that were sent back since they are longer than their rotation
  std::vector<Share> shares_;
  std::vector<Piece> pieces_;
};

}  // namespace bumblebee::engine
