// Continuous batching on one thread: scheduler, step, sampling, delivery. Knows tokens only: text, templates and HTTP
// are above.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/contrastive.h"
#include "engine/job.h"
#include "engine/model_state.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

namespace bumblebee::engine {

struct EngineOptions {
  int batch_size = 1;
  int sequence_length = 0;  // 0: the model's context
  int prefill_chunk = 512;
};

class Engine {
 public:
  Engine(std::shared_ptr<ModelState> model, const EngineOptions& options);
  /// Fails what is still there with Error(cancelled) and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Checks a request as submit() does, without queueing it.
  void check(const Work& work) const;
  /// Queues a request, from any thread. Throws Error(bad_request) when it does not fit.
  std::shared_ptr<Job> submit(Work work);

  /// True on the engine's own thread, where waiting for a request would wait for ever.
  bool inside() const { return std::this_thread::get_id() == thread_.get_id(); }
  int sequence_length() const { return limits_.sequence_length; }

 private:
  struct Running {
    std::shared_ptr<Job> job;
    Sampler sampler;
    ContrastiveState contrastive;
    std::vector<std::optional<text::TokenLogprob>> candidate_logprobs;
    Outcome outcome;
    int max_new = 0;
    SlotLease adapters;  // given back with the request
    std::optional<std::chrono::steady_clock::time_point> first_step, first_token;
    bool contrasts() const;
  };
  /// The segments of one request in a step, which lie together.
  struct Group {
    size_t first = 0, count = 0;
    size_t first_wanted = 0;  // index of the first wanted row
    bool wanted = false;
  };
  /// Host copies of what a step computed.
  struct Results {
    std::vector<float> logits;  // [wanted, vocab]
    std::vector<float> hidden;  // [rows, d_model], only when somebody compares them
  };

  std::unique_ptr<KvStore> make_kv() const;
  int max_new(const Work& work) const;
  void loop();
  void admit(std::vector<std::shared_ptr<Job>> jobs);
  void end_cancelled();
  void step();
  void compute(const Step& step);
  void deliver(const Step& step);
  void advance(RequestId id, Running& running, std::span<const float> logits);
  void advance_contrastive(RequestId id, Running& running, const Step& step, const Group& group);
  bool emit(RequestId id, Running& running, int32_t token, std::optional<text::TokenLogprob> logprob);
  void propose(RequestId id, Running& running, std::span<const float> logits);
  std::optional<text::TokenLogprob> logprob(const Running& running, std::span<const float> logits, int32_t token) const;
  void end(RequestId id, text::FinishReason reason);
  void fail(RequestId id, std::exception_ptr error);
  void fail_all(ErrorCode code, const std::string& what);
  void release_memory();
  void fail_step(const Step& step, ErrorCode code, const std::string& what);
  std::span<const float> logits_row(size_t wanted) const;
  std::span<const float> hidden_rows(const Segment& segment) const;

  std::shared_ptr<ModelState> model_;
  SchedulerLimits limits_;
  std::unique_ptr<KvStore> kv_;

  // Only the engine's thread touches these.
  Scheduler scheduler_;
  std::map<RequestId, Running> running_;
  RequestId next_id_ = 1;
  SamplerScratch scratch_;
  Results results_;
  std::set<int32_t> dirty_pages_;  // freed, their memory not yet given back

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Job>> incoming_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace bumblebee::engine
