// Continuous batching on one thread: scheduler, step, delivery. Knows tokens only: text, templates and HTTP are above;
// devices, locks and adapters' tables are the executor's.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

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
  int vocab = 0, d_model = 0;  // of the model
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
  /// Queues a request, from any thread. Throws Error(bad_request) when it does not fit.
  std::shared_ptr<Job> submit(Request request);

  int sequence_length() const { return limits_.sequence_length; }
  exec::MemoryReport memory() const { return executor_->memory(); }

 private:
  /// A request from its activation to its end. Its tokens are the scheduler's.
  struct Active {
    Active(std::shared_ptr<Job> j, Sampler s) : job(std::move(j)), sampler(std::move(s)) {}
    std::shared_ptr<Job> job;
    Sampler sampler;
    std::optional<ContrastiveSearcher> contrastive;
    exec::SlotLease slot;
    std::vector<text::TokenLogprob> logprobs;
    std::optional<std::chrono::steady_clock::time_point> first_step, first_token;
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
  RequestId next_id_ = 1;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Job>> incoming_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace bumblebee::engine
