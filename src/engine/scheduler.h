// Decides what the next step computes. Pure logic: no threads, no device, no clock, so every schedule can be tested.
//
// Policy. Requests become active in the order they came, when a place in the batch is free and the pages of prompt and
// longest answer can be reserved: an active request never runs out of memory, and one that is too large waits at the
// head of the queue. A step holds
// one row (or one per alternative) for every sequence that is generating, and prompt tokens up to `prefill_chunk`,
// oldest request first. Both travel in one batch, so that the weights are read once for all of them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "engine/sequence.h"
#include "exec/executor.h"

namespace bumblebee::engine {

struct SchedulerLimits {
  int batch_size = 1;       // sequences computed at once
  int sequence_length = 0;  // of prompt and output together
  int prefill_chunk = 512;
  int pages = 0, page_size = 64;
};

/// What a segment of the batch belongs to.
struct StepSegment {
  RequestId id = 0;
  int branch = 0;
  bool wants_logits = false;  // its last row is the next of the batch's logit rows
};

struct PlannedStep {
  exec::Step step;
  std::vector<StepSegment> segments;  // parallel to step.batch.segments
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Queues a request. Throws Error(bad_request) for an empty prompt and for a request that could never fit.
  void submit(Sequence request);
  /// Activates waiting requests that can run now, and returns them; their adapters need slots before next().
  std::vector<RequestId> activate();
  /// The next step of the active requests, or nothing when none can go on. After it, every request with a segment that
  /// wants logits needs append(), propose() or finish(). When it throws, the active requests are beyond use.
  std::optional<PlannedStep> next();

  /// The token that was chosen after the last one.
  void append(RequestId id, int32_t token);
  /// Alternatives for the next token: each is computed in a branch of its own, of which keep_branch() keeps one.
  void propose(RequestId id, std::vector<int32_t> tokens);
  void keep_branch(RequestId id, int branch);
  /// Forgets the tokens from `length` on, which is at least the prompt's; those that are kept and computed stay so.
  void truncate(RequestId id, int length);
  /// Forgets a request, wherever it is; unknown ids are fine. Its pages are free afterwards. Never fails.
  void finish(RequestId id);

  /// An active or waiting request.
  Sequence& at(RequestId id);
  bool is_active(RequestId id) const { return active_.contains(id); }
  bool idle() const { return waiting_.empty() && active_.empty(); }
  int active() const { return int(active_.size()); }
  int waiting() const { return int(waiting_.size()); }
  PageStats pages() const { return table_.stats(); }
  /// Pages given back since the last call.
  std::vector<int32_t> take_freed() { return table_.take_freed(); }

 private:
  struct Piece {
    const Sequence* sequence = nullptr;
    PageTable::Sequence pages = 0;
    std::span<const int32_t> tokens;
    int past = 0, branch = 0;
    bool wants_logits = false;
  };
  int pages_needed(const Sequence& request) const;
  int plan(Sequence& sequence, int budget, std::vector<Piece>& pieces, std::vector<PageCopy>& copies);
  void plan_branches(Sequence& sequence, std::vector<Piece>& pieces, std::vector<PageCopy>& copies);
  void close(Sequence& sequence);

  SchedulerLimits limits_;
  PageTable table_;
  std::deque<Sequence> waiting_;
  std::map<RequestId, Sequence> active_;  // ids ascend with time, so this is the order of arrival
  int reserved_ = 0;
};

}  // namespace bumblebee::engine
