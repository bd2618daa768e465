// Text generation as a serving: built once from a model, a tokenizer and a config, then run from any number of threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bumblebee/adapter.h"
#include "bumblebee/generation_config.h"
#include "bumblebee/model.h"
#include "bumblebee/tokenizer.h"

namespace bumblebee::text {

/// Stops run() and stream() from any thread, and from a signal handler; copies share the flag. Requests that were
/// submitted have Request::cancel().
class CancelHandle {
 public:
  CancelHandle() : flag_(std::make_shared<std::atomic<bool>>(false)) {}
  void cancel() { flag_->store(true, std::memory_order_relaxed); }
  bool cancelled() const { return flag_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<std::atomic<bool>> flag_;
};

/// Told several times a second, on the thread that called, how many of the prompt's tokens are computed, until all are.
/// A prompt that is computed at once, being short or cached, may not call it at all. What it throws, the call throws.
using PromptProgress = std::function<void(int done, int total)>;

enum class FinishReason : uint8_t { stop, length, cancelled };
const char* to_string(FinishReason reason);  // "stop", "length", "cancelled"

/// What to continue. Exactly one of `text`, `messages` and `tokens` is used: messages when there are any, else tokens
/// when there are any, else text.
struct Input {
  std::string text;               // continued as it is; control tokens in it stay text unless parse_control_tokens
  std::vector<Message> messages;  // rendered with the model's chat template
  ChatOptions chat;
  std::vector<int32_t> tokens;
  bool parse_control_tokens = false;       // a text that spells its beginning then gets no second one
  std::optional<GenerationConfig> config;  // instead of the serving's
  std::optional<uint64_t> seed;            // instead of the config's
  std::vector<WeightedAdapter> adapters;   // composed, in place of the serving's; none: the serving's
  bool without_adapters = false;           // the base, also where the serving has adapters; excludes `adapters`
  PromptProgress prompt_progress;          // of run() and stream()
  CancelHandle cancel;                     // of run() and stream()

  /// Answers to this input, 1 to 64: of submit() only, run() and stream() want 1. They are requests of their own whose
  /// prompt is computed once, as far as it fills pages of 64 tokens. The first has the seed, answer i the first 64 bits
  /// of philox(seed, i), without the top 11.
  int n = 1;
  bool ignore_eos = false;              // goes on after the config's eos_token_ids
  std::vector<int32_t> stop_token_ids;  // end the answer, whatever else does; not part of the text
  bool skip_special_tokens = true;      // control tokens are no text; off: they are
  bool cache = true;                    // may use what others computed of the same prompt, and leave its own
  /// Who shares computed prompts: requests of one salt. At most 64 of letters, digits, '-', '_' and '.'; results never
  /// depend on it.
  std::string cache_salt;

  int priority = 0;  // lower is served first
  /// Places are shared out fairly between these: batch keys (one of GenerationOptions::batch_keys), else clients, else
  /// sets of adapters. At most 64 bytes.
  std::string batch_key, client;
  std::optional<std::chrono::milliseconds> queue_timeout;  // Error(timed_out) unless it runs by then
  std::optional<std::chrono::milliseconds> deadline;       // Error(timed_out) unless it is over by then

  Input() = default;
  Input(std::string t) : text(std::move(t)) {}  // NOLINT: run("text") should read as in Elixir's
  Input(const char* t) : text(t) {}             // NOLINT
};

struct TokenSummary {
  int input = 0, output = 0;
  int cached = 0;  // of the input: computed for an earlier request, and not again
};

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;  // natural log, of the distribution before temperature and filters
  std::vector<std::pair<int32_t, double>> top;
};

struct Timings {
  double queue_s = 0;    // from the call to the first step
  double ttft_s = 0;     // from the call to the first token
  double prefill_s = 0;  // computing the prompt
  double decode_s = 0;   // from the first token to the last
};

struct Result {
  std::string text;
  std::vector<int32_t> tokens;  // the new ones, without the ending token
  TokenSummary token_summary;
  FinishReason finish_reason = FinishReason::stop;
  std::vector<TokenLogprob> logprobs;
  Timings timings;
  uint64_t seed = 0;                       // that draws came from
  std::optional<int32_t> stop_token;       // the token that ended it
  std::optional<std::string> stop_string;  // the text that ended it, of GenerationConfig::stop_strings
  /// Of models that write channels between control tokens: where in `text` the marks of thoughts and calls begin that
  /// such tokens made; the same characters elsewhere are none. Absent for other models.
  std::optional<std::vector<size_t>> marks = {};

  /// What was said: `text` without its thoughts and the blanks after them. Where there are no marks, that is what an
  /// answer begins with from <think> to the first </think>. A thought that does not end is all that is left.
  std::string without_thoughts() const;
};

/// Receives pieces of text as they become certain (whole UTF-8 characters, no part of a stop string), on the thread
/// that called stream(). Returning false cancels the request; what it throws, stream() throws.
using TextCallback = std::function<bool(std::string_view piece)>;

struct ServingLimits {
  int batch_size = 1;  // requests computed at once; more wait
  /// Tokens of prompt and output together; 0: the model's context, or as much of it as kv_bytes holds.
  int sequence_length = 0;
};

struct GenerationOptions {
  ServingLimits limits;
  /// Prompt tokens computed in one step, so that others' tokens are not held up; 0: 512, and what the device computes
  /// best while nobody's answer grows.
  int prefill_chunk = 0;
  std::vector<WeightedAdapter> adapters = {};  // of requests that name none; empty: the base
  /// Memory for keys and values at most; 0: half of what the device leaves beside the weights. It bounds how many
  /// tokens all running requests hold together; more requests wait.
  uint64_t kv_bytes = 0;
  int max_waiting = 1024;                  // sequences that wait at most; more are refused with Error(busy)
  int64_t max_waiting_tokens = 4'000'000;  // of their prompts
  int max_active_per_client = 0;           // or batch key, or set of adapters; 0: no limit
  int step_target_ms = 200;  // of a step while answers grow, longer where several prompts wait, 1 s at most
  int batch_timeout_ms = 0;  // how long an idle serving waits for company before it starts
  std::vector<std::string> batch_keys = {};  // classes of requests that places are shared out between, as Nx.Serving's
  bool prefix_cache = true;                  // keeps what was computed, for prompts that begin alike
  /// After all deltas of a step; on the serving's thread, may not block. What it throws is logged.
  std::function<void()> on_step = {};
};

/// What a serving has room for.
struct GenerationLimits {
  int sequence_length = 0;  // tokens of prompt and output together
  uint64_t kv_bytes = 0;    // of keys and values that the device may hold
};

class Listener;       // serving.h
class Request;        // serving.h
struct ServingStats;  // serving.h

namespace detail {
class Generator;
}

/// A serving. A handle; every method may be called from any thread, and requests from different threads share batches.
class Generation {
 public:
  /// Generates to the end. Throws TooLong for a prompt as long as the sequence length or longer (never a truncation; a
  /// text that must be is refused before it is tokenized), Error(bad_request) for an empty prompt and for settings out
  /// of range, and what submit() throws. A cancelled request returns what it had. Not from a listener.
  Result run(const Input& input) const;
  /// One result per input, in order; they are computed together up to the batch size. If one input is refused, none is
  /// run. Of a list that is longer than the queue, the rest follows as places come free. Adapters of a request are
  /// packed when it gets its place, if they are not yet; one that cannot fit by itself is refused here.
  std::vector<Result> run(std::span<const Input> inputs) const;
  /// As run(), with the text in pieces while it is made.
  Result stream(const Input& input, const TextCallback& piece) const;
  /// The same for several, which are computed together: all pieces of the first, then those of the second, and so on;
  /// `input` says whose. Returning false cancels them all, and nothing more is told; an input's own handle cancels
  /// that input alone.
  std::vector<Result> stream(std::span<const Input> inputs,
                             const std::function<bool(size_t input, std::string_view piece)>& piece) const;

  /// Queues a request and returns at once. Throws Error: what run() throws for an input that does not fit, TooLong,
  /// `busy` when the queue is full, `draining` after drain(); the listener hears of nothing then. `listener` may be
  /// null. When the last handle of the serving goes, requests that are not over fail with Error(cancelled).
  Request submit(const Input& input, std::shared_ptr<Listener> listener) const;

  GenerationLimits limits() const;
  ServingStats stats() const;
  /// Refuses new requests from now on, waits for those that are there, and cancels what is left after `timeout`. True
  /// when all ended by themselves.
  bool drain(std::chrono::milliseconds timeout) const;

  /// Replaces the serving's own adapters, for requests that come from now on; those that run keep theirs. Throws what
  /// Model::prepare_adapters() throws, and changes nothing then.
  void set_adapters(const std::vector<WeightedAdapter>& adapters) const;

  explicit Generation(std::shared_ptr<detail::Generator> generator) : generator_(std::move(generator)) {}

 private:
  std::shared_ptr<detail::Generator> generator_;
};

/// Builds the serving. Throws Error(bad_config) when the tokenizer has more than twice as many tokens as the model has
/// rows (fewer are noted in the log, and prompts with ids that the model lacks are refused), or when options are out of
/// range, Error(out_of_memory) with the bytes needed when one sequence of the length asked for does not fit into
/// kv_bytes; for its adapters, what Model::prepare_adapters() throws.
Generation generation(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
                      const GenerationOptions& options = {});

}  // namespace bumblebee::text
