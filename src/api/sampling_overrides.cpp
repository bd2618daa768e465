// What a request says of choosing tokens, laid over what the model's author says: one rule for the program and a
// server.
#include <algorithm>

#include "bumblebee/generation_config.h"

namespace bumblebee {
namespace {

bool greedy(const SamplingOverrides& overrides) { return overrides.temperature == 0.0 || overrides.top_p == 0.0; }

/// Clients send every setting that they have: a filter that is off asks for nothing.
bool asks_for_a_draw(const SamplingOverrides& overrides) {
  return overrides.temperature || overrides.top_k.value_or(0) > 0 || overrides.top_p.value_or(1) != 1 ||
         overrides.min_p.value_or(0) != 0;
}

}  // namespace

void apply(const SamplingOverrides& overrides, GenerationConfig& config) {
  if (overrides.repetition_penalty) config.repetition_penalty = *overrides.repetition_penalty;
  if (overrides.presence_penalty) config.presence_penalty = *overrides.presence_penalty;
  if (overrides.frequency_penalty) config.frequency_penalty = *overrides.frequency_penalty;
  if (overrides.seed) config.seed = overrides.seed;
  if (greedy(overrides)) {
    config.strategy = GreedySearch{};
    config.temperature = 1.0;
    return;
  }
  if (overrides.temperature) config.temperature = *overrides.temperature;
  const auto* own = std::get_if<MultinomialSampling>(&config.strategy);
  if (own == nullptr && !asks_for_a_draw(overrides)) return;
  MultinomialSampling sampling = own != nullptr ? *own : MultinomialSampling{};
  if (overrides.top_k) sampling.top_k = std::max(0, *overrides.top_k);
  if (overrides.top_p) sampling.top_p = *overrides.top_p;
  if (overrides.min_p) sampling.min_p = *overrides.min_p;
  config.strategy = sampling;
}

}  // namespace bumblebee
