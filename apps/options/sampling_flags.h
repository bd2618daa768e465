// Flags that say how tokens are chosen and when generation ends. What is not given keeps the value of
// generation_config.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bumblebee/generation_config.h"
#include "options/parser.h"

namespace bumblebee::cli {

struct SamplingFlags {
  std::optional<int> max_tokens, min_tokens;
  std::optional<int> min_chars, max_chars;
  std::string strip;
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p, min_p;
  std::optional<double> contrastive_alpha;
  bool greedy = false;
  std::optional<int64_t> seed;  // -1: none
  std::optional<double> repeat_penalty, presence_penalty, frequency_penalty;
  std::optional<int> no_repeat_ngram;
  std::vector<std::string> logit_bias;
  std::vector<std::string> stop;
  std::optional<int> logprobs;
};

/// Tokens generated when neither -n nor generation_config.json says how many.
inline constexpr int kDefaultMaxTokens = 512;

/// How long an answer may be without -n: what the model's author or the above says, or until the context is full.
enum class Uncapped : unsigned char { no, yes };

void add_sampling_flags(Parser& verb, SamplingFlags& flags, Uncapped uncapped = Uncapped::no);

/// Lays the flags over `config`. Without --seed a sampled result gets a fresh seed, which the caller can print. Throws
/// UsageError for flags that contradict each other.
void apply(const SamplingFlags& flags, GenerationConfig& config, Uncapped uncapped = Uncapped::no);

}  // namespace bumblebee::cli
