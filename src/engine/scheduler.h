// Decides what the next step computes. Pure logic: no threads, no device, no clock, so every schedule can be tested.
//
// Policy. Requests are admitted in the order they came, when a place in the batch is free and the pages of prompt and
// longest answer can be reserved: an admitted request never runs out of memory, and one that is too large waits at the
// head of the queue. A step holds one row (or one per branch) for every sequence that is generating, and prompt tokens
// up to `prefill_chunk`, oldest request first. Both travel in one batch, so that the weights are read once for all of
// them.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "backend/batch.h"
#include "engine/kv_pages.h"

namespace bumblebee::engine {

using RequestId = uint64_t;

struct SchedulerLimits {
  int batch_size = 1;       // sequences computed at once
  int sequence_length = 0;  // of prompt and output together
  int prefill_chunk = 512;
  int pages = 0, page_size = 64;
};

struct Admission {
  RequestId id = 0;
  std::vector<int32_t> prompt;
  int max_new = 0;
  int branches = 1;   // most alternatives tried at once for the next token
  int32_t slot = -1;  // adapters, as the batch names them
  /// What keys and values depend on beside the tokens: pages may be shared by requests of one identity only. Zeros: the
  /// base.
  std::array<uint8_t, 16> identity = {};
};

/// What a segment of the batch belongs to.
struct StepSegment {
  RequestId id = 0;
  int branch = 0;
  bool wanted = false;  // its last row has the next wanted index
};

struct Step {
  Batch batch;
  std::vector<StepSegment> segments;  // parallel to batch.segments
  std::vector<PageCopy> copies;       // to do before the step
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Throws Error(bad_request) for an empty prompt and for a request that could never fit.
  void submit(Admission request);
  /// The next step, or nothing when no request can go on. After it, every request with a wanted segment needs proceed()
  /// or finish().
  std::optional<Step> next();
  /// The tokens to compute next for `id`: one, or alternatives of which choose() keeps one.
  void proceed(RequestId id, std::vector<int32_t> tokens);
  /// Keeps one of the branches of the last step.
  void choose(RequestId id, int branch);
  /// Forgets a request, wherever it is; unknown ids are fine. Its pages are free afterwards.
  void finish(RequestId id);

  bool idle() const { return waiting_.empty() && active_.empty(); }
  int active() const { return int(active_.size()); }
  int waiting() const { return int(waiting_.size()); }
  PageStats pages() const { return table_.stats(); }
  /// Pages given back since the last call.
  std::vector<int32_t> take_freed();

 private:
  struct Active {
    Admission request;
    PageTable::Sequence sequence = 0;
    int reserved = 0;
    int done = 0;                               // prompt tokens computed or in the step being computed
    std::vector<int32_t> next;                  // tokens to compute now; empty while a prediction is awaited
    std::vector<PageTable::Sequence> branches;  // of the step being computed
  };
  struct Piece {
    Active* active = nullptr;
    PageTable::Sequence sequence = 0;
    std::vector<int32_t> tokens;
    int past = 0, branch = 0;
    bool wanted = false;
  };
  int pages_needed(const Admission& request) const;
  void admit();
  void plan_decode(Active& active, std::vector<Piece>& pieces, std::vector<PageCopy>& copies);
  int plan_prefill(Active& active, int budget, std::vector<Piece>& pieces, std::vector<PageCopy>& copies);

  SchedulerLimits limits_;
  PageTable table_;
  std::deque<Admission> waiting_;
  std::map<RequestId, Active> active_;  // ids ascend with time, so this is the order of arrival
  int reserved_ = 0;
  std::vector<int32_t> freed_;
};

}  // namespace bumblebee::engine
