// Continuous batching on one thread: scheduler, step, delivery. Knows tokens only: text, templates and HTTP are above;
// devices, locks and adapters' tables are the executor's.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/function_ref.h"
#include "bumblebee/serving.h"
#include "engine/contrastive.h"
#include "engine/counters.h"
#include "engine/pace.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/set_opener.h"
#include "exec/executor.h"

namespace bumblebee::engine {

struct EngineOptions {
  int batch_size = 1;
  int sequence_length = 0;
  int prefill_chunk = 512;
  int prefill_alone = 0;                   // the same while no answer grows; 0: prefill_chunk
  int vocab = 0, d_model = 0;              // of the model
  int stretch_beyond = 0;                  // the same (nn::ModelDims)
  int max_waiting = 1024;                  // requests beyond the batch; more are refused with Error(busy)
  int64_t max_waiting_tokens = 4'000'000;  // of their prompts
  int max_active_per_key = 0;              // 0: no limit
  int step_target_ms = 200;                // of a step while answers grow (Pace); 0: prefill_chunk decides
  int batch_timeout_ms = 0;                // how long an idle engine waits for company
  int keep_spare_ms = 30'000;              // how long an idle engine keeps the memory of pages that hold nothing
  bool prefix_cache = true;
  std::function<void()> on_step = {};  // after all that sinks hear of a step; on the engine's thread, may not block
};

/// Pages that alternatives of contrastive search may need beside the sequences' own; validate() allows 64 of them.
inline constexpr int kSparePages = 64;

/// Throws Error(bad_request) naming the option that is out of range for a model with this context.
void check_options(const EngineOptions& options, int context);

class Engine {
 public:
  /// `options` have passed check_options(). The executor's cache holds at least one sequence.
  Engine(std::unique_ptr<exec::Executor> executor, const EngineOptions& options);
  /// Fails what is still there with Error(cancelled) and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Checks a request as submit() does, without queueing it.
  void check(const Request& request) const;
  /// Throws Error(busy) when there is no place for so many more, Error(draining) after drain(), which count as refused,
  /// and Error(bad_request) when there never is a place: worth asking before prompts are made.
  void require_room(int requests) const;
  /// Whether one more, with a prompt of so many tokens, would be refused with Error(busy). Counts nothing.
  bool full(int64_t tokens) const;
  /// Queues requests, from any thread: all, or none when it throws. Their numbers are in order. Throws what
  /// require_room() throws, TooLong, and Error(bad_request) for what can never run.
  std::vector<RequestId> submit(std::vector<Request> requests);
  RequestId submit(Request request);
  /// Ends a request with what it has; unknown numbers are fine. From any thread.
  void cancel(RequestId id) noexcept;

  /// Counters, without a lock: each is right by itself.
  text::ServingStats stats() const { return counters_.stats(); }
  /// Refuses new requests, waits for those that are there and cancels the rest after `timeout`. True when all ended by
  /// themselves.
  bool drain(std::chrono::milliseconds timeout);

  int sequence_length() const { return options_.sequence_length; }
  exec::MemoryReport memory() const { return executor_->memory(); }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Stage : uint8_t { arrived, waiting, active };
  /// A request from its submission to its end. Its tokens are the scheduler's.
  struct Live {
    Live(RequestId i, Request r);
    RequestId id;
    Request request;
    PrefixRoot root;
    std::exception_ptr out_of_memory;  // ready-made: to be told of a shortage must not need memory
    Clock::time_point called = Clock::now();
    Stage stage = Stage::arrived;
    bool cancelled = false;
    int waiting_tokens = 0;  // of the prompt, while they count as such

    // Its set of adapters, while it waits for its place.
    bool opening = false, opened = false;
    uint64_t no_room_at = 0;     // ends_ when there was no memory for it beside others
    uint64_t opening_since = 0;  // ends_ when its opening began
    SetOpener::Set set;
    bool uses_set = false;  // while it is active
    std::exception_ptr failure;

    // From its first activation on.
    std::optional<Sampler> sampler;
    std::optional<ContrastiveSearcher> contrastive;
    exec::SlotLease slot;
    std::vector<text::TokenLogprob> logprobs;
    std::optional<Clock::time_point> first_step, first_token;
    std::optional<int32_t> stop_token;
  };
  /// What a step says about one request: its segments lie together.
  struct Group {
    Live* live = nullptr;
    const Sequence* sequence = nullptr;
    size_t first = 0, count = 0;
    size_t first_logit_row = 0;  // index of the first of its logit rows
    bool wants_logits = false;
    // What came of it.
    std::optional<int32_t> token;  // to be appended
    std::optional<text::FinishReason> end;
    std::exception_ptr error;
  };

  /// A step that was launched.
  struct Flight {
    PlannedStep planned;
    StepDemand demand;
    exec::Ticket ticket = 0;
    Clock::time_point launched{};
  };
  /// Why a step was not computed.
  struct Failure {
    ErrorCode code = ErrorCode::device;
    std::string what;
  };

  int max_new(const Request& request) const;
  void require_room_locked(int requests, int64_t tokens) const;
  int64_t most_requests() const { return int64_t(options_.batch_size) + options_.max_waiting; }
  /// Where nothing waits, tokens refuse nobody.
  bool too_many_tokens(int64_t waiting, int64_t more) const {
    return waiting > 0 && waiting + more > options_.max_waiting_tokens;
  }

  // engine.cpp: the loop.
  void loop() noexcept;
  bool await_work();
  void await_company(std::unique_lock<std::mutex>& lock);
  void iterate();
  bool give_way(RequestId id) noexcept;
  void enqueue();
  void end_cancelled();
  void expire(Clock::time_point now);
  void end(RequestId id, text::FinishReason reason);
  /// Null: the serving was shut down.
  void fail(RequestId id, std::exception_ptr error) noexcept;
  template <class Tell>
  void leave(RequestId id, Scheduler::Leaves leaves, const Tell& tell) noexcept;
  void shed() noexcept;
  void tell_step() noexcept;
  void log_preemptions();
  void release_spare();
  void publish();

  // step.cpp: a step.
  void activate();
  FairQueue::Verdict ready(Live& live);
  void open_apart(Live& live);
  bool try_open_apart(Live& live) noexcept;
  void start(Live& live);
  void let_go_preempted() noexcept;
  bool step();
  static bool tried(Failure& failure, FunctionRef<void()> body) noexcept;
  void launch(Flight& flight, int unknown);
  void launch_ahead(const Flight& flight) noexcept;
  void measure(const Flight& flight, const exec::StepResult& result, Clock::time_point since);
  void describe_choices(PlannedStep& planned, int unknown);
  void step_failed(const PlannedStep& planned, const Failure& failure);
  void recover(const PlannedStep& planned, const std::string& what);
  void collect(const PlannedStep& planned, const exec::StepResult& result);
  void take_token(Group& group, const exec::StepResult& result) const noexcept;
  void advance_contrastive(Group& group, const PlannedStep& planned, const exec::StepResult& result);

  const EngineOptions options_;
  const std::unique_ptr<exec::Executor> executor_;
  mutable Counters counters_;

  // Only the engine's thread touches these.
  Scheduler scheduler_;
  Pace pace_;
  std::map<RequestId, Live> live_;
  std::vector<Group> groups_;
  std::optional<Flight> ahead_;             // the step after the one that was collected last
  bool busy_ = false;                       // the last round did something
  bool arrived_ = false, cancels_ = false;  // some of live_ are to be queued, or to end
  bool told_ = false;                       // somebody heard something since on_step
  bool retried_ = false;                    // the last step had no memory, and this one is smaller
  uint64_t ends_ = 1;                       // of requests with adapters, and sets that gave way
  int sets_in_use_ = 0;                     // by active requests
  int opening_ = 0;                         // requests whose sets are being opened, or are open before they are active
  uint64_t preemptions_logged_ = 0;
  Clock::time_point next_preemption_log_{};
  Clock::time_point next_deadline_ = Clock::time_point::max(), idle_since_ = Clock::now();

  mutable std::mutex mutex_;  // what follows
  std::condition_variable wake_, ended_;
  std::map<RequestId, Live> incoming_;
  std::map<RequestId, bool> alive_;   // requests that are not over; whether they were cancelled
  std::vector<RequestId> cancelled_;  // with room for all that are alive
  RequestId next_id_ = 1;
  int telling_ = 0;  // sinks that hear of their end just now
  bool stopping_ = false, draining_ = false;

  SetOpener opener_;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace bumblebee::engine
