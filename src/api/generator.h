// What is behind the handle of a serving: inputs to requests of the engine.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/model_state.h"
#include "api/request_state.h"
#include "bumblebee/serving.h"
#include "engine/engine.h"

namespace bumblebee::text::detail {

class Generator {
 public:
  Generator(const Model& model, const Tokenizer& tokenizer, const GenerationConfig& config,
            const GenerationOptions& options);

  /// A request that was checked, and not queued yet.
  struct Prepared {
    engine::Request request;  // of the first answer, without a sink
    int answers = 1;
    bool skip_special = true;
    std::optional<std::chrono::milliseconds> queue_timeout, deadline;
  };
  Prepared prepare(const Input& input) const;
  /// Throws what Engine::submit() throws; then nobody hears of anything.
  std::shared_ptr<RequestState> submit(const Prepared& prepared, std::shared_ptr<Listener> listener) const;

  engine::Engine& engine() const { return *engine_; }
  GenerationLimits limits() const;
  void set_adapters(const std::vector<WeightedAdapter>& adapters);

 private:
  std::vector<lora::AdapterCache::Part> adapters_of(const Input& input) const;
  GenerationConfig config_of(const Input& input) const;
  std::vector<int32_t> prompt_of(const Input& input) const;
  std::string key_of(const Input& input, const engine::Request& request) const;
  /// Throws TooLong for a text that cannot fit, however it is tokenized.
  void require_fits(std::string_view text) const;

  const std::shared_ptr<api::ModelState> model_;
  const Tokenizer tokenizer_;
  const GenerationConfig config_;
  const std::vector<std::string> batch_keys_;
  mutable std::mutex mutex_;
  std::vector<WeightedAdapter> adapters_;        // of requests that name none; under mutex_
  std::shared_ptr<const lora::AdapterSet> set_;  // of them: it stays packed; the same
  const std::shared_ptr<engine::Engine> engine_;
};

}  // namespace bumblebee::text::detail
