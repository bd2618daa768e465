// What a request says about its next token, as the plain numbers of a SampleRow: which changes of logits apply now,
// from the history of its sequence and the index in its output. Choosing is backend/sample.h, on the device or here.
//
// Order, which is transformers' with Bumblebee's in it: logit bias, repetition penalty, presence and frequency
// penalties, no-repeat n-grams, minimum length (masks the ending tokens), suppressed tokens, forced tokens, then
// temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/sample.h"
#include "bumblebee/generation.h"
#include "bumblebee/generation_config.h"

namespace bumblebee::engine {

class Sampler {
 public:
  /// `config` has passed validate(). Ids outside [0, vocab) in it throw Error(bad_request).
  Sampler(const GenerationConfig& config, std::span<const int32_t> prompt, int vocab, uint64_t seed);

  /// How the token after `tokens` (prompt and output), and after `unknown` more that are still being chosen, is chosen:
  /// appends to `changes` what the row needs of it. The mode is none for contrastive search, which the host decides.
  SampleRow describe(std::span<const int32_t> tokens, std::vector<LogitChange>& changes, int unknown = 0) const;
  /// Whether how a token is chosen does not depend on which one comes before it.
  bool foresees() const;

  /// The `count` likeliest tokens after all processors with their probabilities, likeliest first: contrastive search's
  /// candidates. On the host. Throws as require_chosen() does.
  std::vector<std::pair<int32_t, double>> candidates(std::span<const int32_t> tokens, std::span<const float> logits,
                                                     int count) const;
  /// Where the config asks for it: from the distribution before any processor.
  std::optional<text::TokenLogprob> logprob(std::span<const float> logits, int32_t token) const;

  /// Counts a token that is part of the sequence now.
  void accept(int32_t token);

  /// Until told otherwise, tokens that end the answer are masked.
  void ban_end(bool banned) { end_banned_ = banned; }

  bool is_eos(int32_t token) const;
  const GenerationConfig& config() const { return config_; }

 private:
  LogitChange& change_of(int32_t token);
  std::vector<int32_t> masked_now(std::span<const int32_t> tokens, int length) const;

  GenerationConfig config_;
  int prompt_size_ = 0;
  int vocab_ = 0;
  uint64_t seed_ = 0;
  bool end_banned_ = false;
  std::vector<LogitChange> changes_;  // those of bias, penalties and suppressed tokens, by token
  std::unordered_map<int32_t, int> output_counts_;
};

/// Always the likeliest token.
bool is_greedy(const GenerationConfig& config);

/// Throws when an id of Ops::sample says why there is no token: Error(device) for a logit that is NaN or +infinity,
/// Error(bad_request) when every token is masked.
void require_chosen(int32_t id);

/// Throws Error(bad_request) when the config names tokens that a vocabulary of this size does not have.
void require_ids(const GenerationConfig& config, int vocab);

}  // namespace bumblebee::engine
