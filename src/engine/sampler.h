// From one row of logits to one token: the processors in a fixed order, then a choice. Host code on f32 rows; pure but
// for the history of its sequence, so a request gives the same tokens in any batch.
//
// Order, which is transformers' with Bumblebee's in it: logit bias, repetition penalty, presence and frequency
// penalties, no-repeat n-grams, minimum length (masks the ending tokens), suppressed tokens, forced tokens, then
// temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bumblebee/generation_config.h"

namespace bumblebee::engine {

/// Buffers of one row, shared by all sequences of a thread so that a step allocates nothing.
struct SamplerScratch {
  std::vector<float> scores;    // [vocab]
  std::vector<double> weights;  // [vocab]
  std::vector<int32_t> order;   // candidates
};

/// The logprob of one token and of the likeliest ones, from the distribution before any processor.
struct Logprobs {
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;  // likeliest first; equal ones by id
};

class Sampler {
 public:
  /// `config` has passed validate(). Ids outside [0, vocab) in it throw Error(bad_request).
  Sampler(const GenerationConfig& config, std::span<const int32_t> prompt, int vocab, uint64_t seed);

  /// The next token. Throws Error(device) when a logit is NaN or +infinity, Error(bad_request) when every token is
  /// masked.
  int32_t sample(std::span<const float> logits, SamplerScratch& scratch) const;

  /// All processors: masked tokens become -infinity in scratch.scores.
  void process(std::span<const float> logits, SamplerScratch& scratch) const;

  /// The `count` likeliest tokens of scratch.scores with their probabilities, likeliest first: contrastive search's
  /// candidates.
  std::vector<std::pair<int32_t, double>> candidates(SamplerScratch& scratch, int count) const;

  /// Adds a token to the history.
  void accept(int32_t token);

  bool is_eos(int32_t token) const;
  int outputs() const { return int(history_.size()) - prompt_size_; }
  const std::vector<int32_t>& history() const { return history_; }  // prompt and output
  const GenerationConfig& config() const { return config_; }
  bool greedy() const;

 private:
  void penalise(std::span<float> scores) const;
  void ban_repeated_ngrams(std::span<float> scores) const;
  void mask(std::span<float> scores) const;
  void keep_top_k(SamplerScratch& scratch, int top_k) const;
  void keep_top_p(SamplerScratch& scratch, double top_p) const;
  int32_t draw(SamplerScratch& scratch) const;

  GenerationConfig config_;
  int prompt_size_ = 0;
  int vocab_ = 0;
  uint64_t seed_ = 0;
  std::vector<int32_t> history_;
  std::vector<int32_t> distinct_;  // tokens of the history, each once
  std::vector<bool> seen_;         // [vocab], empty without a repetition penalty
  std::unordered_map<int32_t, int> output_counts_;
};

/// Throws Error(bad_request) when the config names tokens that a vocabulary of this size does not have.
void require_ids(const GenerationConfig& config, int vocab);

/// Log-probabilities of `token` and of the `top` likeliest tokens of a row of raw logits.
Logprobs logprobs_of(std::span<const float> logits, int32_t token, int top);

/// Largest value, lowest index; -infinity everywhere gives -1.
int32_t argmax(std::span<const float> values);

}  // namespace bumblebee::engine
