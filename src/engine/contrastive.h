// Contrastive search (Su et al., 2022, arXiv:2202.06417): among the likeliest tokens, the one whose hidden state
// repeats least what was said before. Everything that it is, is here: for the engine it is a request that reads its
// logits and hidden states on the host, proposes alternatives and keeps one of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "bumblebee/generation.h"
#include "engine/sampler.h"

namespace bumblebee::engine {

class ContrastiveSearcher {
 public:
  /// Null when the config asks for another strategy, or for a greedy choice.
  static std::optional<ContrastiveSearcher> make(const GenerationConfig& config, int d_model);

  int top_k() const { return settings_.top_k; }

  /// Adds hidden states (after the final norm) of tokens that are part of the sequence: rows·d_model values.
  void remember(std::span<const float> hidden);
  bool proposed() const { return !candidates_.empty(); }

  /// Candidates for the next token from its logits, likeliest first. `tokens` are those of the sequence.
  std::vector<int32_t> propose(const Sampler& sampler, std::span<const int32_t> tokens, std::span<const float> logits);
  /// Index of the candidate with the largest (1 - alpha)·p - alpha·max cosine; hidden[i] is candidate i's state. The
  /// likelier of equals. Its state is remembered.
  int choose(const std::vector<std::span<const float>>& hidden);

  int32_t token(int candidate) const { return candidates_[size_t(candidate)].first; }
  std::optional<text::TokenLogprob>& logprob(int candidate) { return logprobs_[size_t(candidate)]; }

 private:
  ContrastiveSearcher(const ContrastiveSearch& settings, int d_model) : settings_(settings), d_model_(d_model) {}

  ContrastiveSearch settings_;
  int d_model_ = 0;
  std::vector<std::pair<int32_t, double>> candidates_;  // with their probabilities
  std::vector<std::optional<text::TokenLogprob>> logprobs_;
  std::vector<float> directions_;  // [tokens, d_model], each of length 1
};

}  // namespace bumblebee::engine
