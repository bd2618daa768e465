// A serving from the outside of its batches: requests that nobody waits for on a thread of their own, what a listener
// hears of them, counters, and servings that a whole process finds by name.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bumblebee/error.h"
#include "bumblebee/generation.h"

namespace bumblebee::text {

/// What one step adds to one answer. Views are valid during the call.
struct Delta {
  int index = 0;                              // which of Input::n answers
  std::string_view text;                      // whole UTF-8 characters, no part of a stop string; may be empty
  std::span<const int32_t> tokens;            // since the last delta of this answer
  std::span<const TokenLogprob> logprobs;     // of these tokens, where the config asks for them
  int input = 0, cached = 0;                  // tokens of the prompt, and how many of them were not computed again
  std::optional<FinishReason> finish_reason;  // with the last delta of this answer, without tokens
  // Of models that write channels between control tokens: where in `text` (or right behind it, for the next) the marks
  // of thoughts and calls begin that such tokens made, and whether the tokens are a thought's.
  std::span<const size_t> marks = {};
  bool thought = false;
};

/// Hears of one request, on the serving's own threads, one call at a time: deltas, then exactly one of on_end and
/// on_error, then it is let go of. It may not block (everybody's next token waits for it: whoever is slow buffers and
/// drops), and what would wait for a serving throws Error(bad_request) there: run(), stream(), wait(), drain(). It may
/// submit and cancel requests, and drop any handle, also the last one of its serving, which another thread then ends.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_delta(const Delta& delta) noexcept = 0;
  /// Input::n results, in the order of their index; cancelled ones with what they had.
  virtual void on_end(std::vector<Result> results) noexcept = 0;
  /// One answer failed; the others are cancelled, and what they had is lost.
  virtual void on_error(const Error& error) noexcept = 0;
};

namespace detail {
class RequestState;
}

/// A request that was submitted. A handle: dropping it changes nothing.
class Request {
 public:
  uint64_t id() const;  // of its first answer, in its serving, from 1; the others follow
  /// From any thread, also after the end. The request ends with what it has, FinishReason::cancelled.
  void cancel() const;
  /// Blocks until it is over and its listener has heard the end; throws its error. Any number of times, from any thread
  /// but a listener's.
  std::vector<Result> wait() const;

  explicit Request(std::shared_ptr<detail::RequestState> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<detail::RequestState> state_;
};

/// Counters since the serving was built, and what is there now. Taken without a lock: each figure is right by itself.
struct ServingStats {
  int running = 0, waiting = 0;                     // sequences, siblings of Input::n counted one by one
  int64_t waiting_tokens = 0;                       // of their prompts
  int pages = 0, pages_used = 0, pages_cached = 0;  // of keys and values; cached: held by nobody but the cache
  int page_tokens = 0;
  uint64_t page_bytes = 0;
  int states = 0, states_used = 0, states_cached = 0;  // of recurrent layers, one for each sequence and checkpoint
  uint64_t state_bytes = 0;
  uint64_t prefix_queries = 0, prefix_hits = 0;  // tokens of prompts that were looked up, and found
  uint64_t prompt_tokens = 0, generated_tokens = 0, recomputed_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t ended_stop = 0, ended_length = 0, ended_cancelled = 0, failed = 0, refused = 0;
  uint64_t steps = 0, rows = 0;
  struct Seconds {
    double plan = 0, compute = 0, sample = 0, text = 0;
  } step_seconds;  // of the steps, by part
};

/// Servings by name, process-wide, as Nx.Serving's: batched_run() of any thread shares the batches of the one that was
/// registered. Throws Error(bad_request) for a name that is taken, or for one that nobody has.
void register_serving(const std::string& name, const Generation& serving);
bool unregister_serving(const std::string& name);
Result batched_run(const std::string& name, const Input& input);
std::vector<Result> batched_run(const std::string& name, std::span<const Input> inputs);

}  // namespace bumblebee::text
