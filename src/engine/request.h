// One request on its way through the engine: what to compute, who hears of it, and what it comes to.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bumblebee/generation.h"
#include "lora/adapter_cache.h"

namespace bumblebee::engine {

struct GenerationResult {
  int cached = 0;               // tokens of the prompt that others had computed
  std::vector<int32_t> tokens;  // without the ending token
  std::vector<text::TokenLogprob> logprobs;
  text::FinishReason reason = text::FinishReason::stop;
  std::optional<int32_t> stop_token;  // that ended it
  text::Timings timings;
};

/// Hears of one request, on one thread at a time: its tokens on any of the backend's threads (those of a step's rows in
/// parallel), its end on the engine's. It may not block, and may not call the engine but for cancel().
class TokenSink {
 public:
  enum class StopReason : uint8_t { none, stop, length, cancelled };
  virtual ~TokenSink() = default;
  /// `logprob` is null where the config asks for none. What it throws ends this request only.
  virtual StopReason take(int32_t token, const text::TokenLogprob* logprob) = 0;
  /// Whether the next token may not be one that ends the answer. Where it may once, it may from then on.
  virtual bool must_go_on() { return false; }
  /// So many tokens of the prompt are computed, of which others had computed `cached`.
  virtual void prompt_computed(int computed, int cached) noexcept { (void)computed, (void)cached; }
  /// Exactly one of the two, and nothing after it. `error` is never null.
  virtual void ended(GenerationResult result) noexcept = 0;
  virtual void failed(std::exception_ptr error) noexcept = 0;
};

struct Request {
  std::vector<int32_t> prompt;
  GenerationConfig config;  // validated; its ending tokens are all that end it
  uint64_t seed = 0;
  /// Opened when the request becomes active, not while it waits; none: the base.
  std::vector<lora::AdapterCache::Part> adapters;
  std::string salt;   // prompts are shared by requests of equal adapters and salt
  bool cache = true;  // may use what others computed, and leave its own. Contrastive search never does
  int priority = 0;   // lower is served first
  std::string key;    // whose it is: within a priority, keys are served fairly
  /// Error(timed_out) unless it is active by then, or over by then.
  std::optional<std::chrono::steady_clock::time_point> queue_deadline, deadline;
  std::shared_ptr<TokenSink> sink;  // never null; held until the end
};

}  // namespace bumblebee::engine
