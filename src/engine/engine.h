// Continuous batching on one thread: scheduler, step, delivery. Knows tokens only: text, templates and HTTP are above;
// devices, locks and adapters' tables are the executor's.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bumblebee/serving.h"
#include "engine/contrastive.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "exec/executor.h"

namespace bumblebee::engine {

struct EngineOptions {
  int batch_size = 1;
  int sequence_length = 0;
  int prefill_chunk = 512;
  int vocab = 0, d_model = 0;              // of the model
  int max_waiting = 1024;                  // requests; more are refused with Error(busy)
  int64_t max_waiting_tokens = 4'000'000;  // of their prompts
  int max_active_per_key = 0;              // 0: no limit
  int step_target_ms = 200;                // of a step while somebody's answer grows
  int batch_timeout_ms = 0;                // how long an idle engine waits for company
  bool prefix_cache = true;
  std::function<void()> on_step = {};  // after all that sinks hear of a step; on the engine's thread, may not block
};

/// Pages that alternatives of contrastive search may need beside the sequences' own; validate() allows 64 of them.
inline constexpr int kSparePages = 64;

/// Throws Error(bad_config) naming the option that is out of range for a model with this context.
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
  /// Throws Error(busy) when there is no place for so many more, Error(draining) after drain(): worth asking before
  /// prompts are made.
  void require_room(int requests) const;
  /// Queues requests, from any thread: all, or none when it throws. Their numbers are in order. Throws what
  /// require_room() throws, TooLong, and Error(bad_request) for what can never run.
  std::vector<RequestId> submit(std::vector<Request> requests);
  RequestId submit(Request request);
  /// Ends a request with what it has; unknown numbers are fine. From any thread.
  void cancel(RequestId id) noexcept;

  /// Counters, without a lock: each is right by itself.
  text::ServingStats stats() const;
  /// Refuses new requests, waits for those that are there and cancels the rest after `timeout`. True when all ended by
  /// themselves.
  bool drain(std::chrono::milliseconds timeout);

  int sequence_length() const { return limits_.sequence_length; }
  exec::MemoryReport memory() const { return executor_->memory(); }

 private:
  using Clock = std::chrono::steady_clock;
  /// A request that was submitted.
  struct Job {
    explicit Job(RequestId i, Request r)
        : id(i),
          request(std::move(r)),
          out_of_memory(std::make_exception_ptr(
              Error(ErrorCode::out_of_memory, "engine", "not enough memory to go on with this request"))) {}
    RequestId id;
    Request request;  // its prompt moves on to the scheduler's sequence
    /// Ready-made: to be told of a shortage must not need memory.
    std::exception_ptr out_of_memory;
    Clock::time_point called = Clock::now();
  };
  /// A request from its activation to its end. Its tokens are the scheduler's.
  struct Active {
    Active(std::shared_ptr<Job> j, Sampler s) : job(std::move(j)), sampler(std::move(s)) {}
    std::shared_ptr<Job> job;
    Sampler sampler;
    std::optional<ContrastiveSearcher> contrastive;
    exec::SlotLease slot;
    std::vector<text::TokenLogprob> logprobs;
    std::optional<Clock::time_point> first_step, first_token;
    std::optional<int32_t> stop_token;
  };
  /// The segments of one request in a step, which lie together.
  struct Group {
    RequestId id = 0;
    size_t first = 0, count = 0;
    size_t first_logit_row = 0;  // index of the first of its logit rows
    bool wants_logits = false;
  };

  int max_new(const Request& request) const;
  void loop() noexcept;
  void iterate(std::vector<std::shared_ptr<Job>>& arrived);
  void enqueue(const std::shared_ptr<Job>& job);
  void activate();
  void end_cancelled();
  void tell_end(const Job& job, GenerationResult result) noexcept;
  void tell_failure(const Job& job, std::exception_ptr error) noexcept;
  void forget(RequestId id) noexcept;
  void step();
  void describe_choices(PlannedStep& planned);
  std::vector<Group> groups_of(const PlannedStep& planned) const;
  void deliver(const PlannedStep& planned, const exec::StepResult& result);
  void advance(Active& active, const Group& group, const exec::StepResult& result);
  void advance_contrastive(Active& active, const Group& group, const PlannedStep& planned,
                           const exec::StepResult& result);
  /// Tells of a token that is part of the sequence now; false when the request has ended with it (and is gone).
  bool emit(RequestId id, Active& active, std::optional<text::TokenLogprob> logprob);
  /// Ends a request whose next token ends it; false when it does not.
  bool ends(RequestId id, Active& active, int32_t token);
  void end(RequestId id, text::FinishReason reason);
  /// Null: the serving was shut down.
  void fail(RequestId id, std::exception_ptr error) noexcept;
  /// After a shortage of memory in the loop itself: the active requests are given up, those that wait go on.
  void shed() noexcept;
  void release_memory();

  const EngineOptions options_;
  const std::unique_ptr<exec::Executor> executor_;
  const SchedulerLimits limits_;

  // Only the engine's thread touches these.
  Scheduler scheduler_;
  std::map<RequestId, std::shared_ptr<Job>> waiting_;  // in the scheduler's queue
  std::map<RequestId, Active> active_;

  mutable std::mutex mutex_;  // what follows
  std::condition_variable wake_;
  std::condition_variable ended_;
  std::vector<std::shared_ptr<Job>> incoming_;
  std::unordered_map<RequestId, bool> alive_;  // requests that are not over; whether they were cancelled
  std::vector<RequestId> cancelled_;           // with room for all that are alive
  RequestId next_id_ = 1;
  bool stopping_ = false, draining_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace bumblebee::engine
