// Contrastive search (Su et al., 2022, arXiv:2202.06417): among the likeliest tokens, the one whose hidden state
// repeats least what was said before. This file is the choice and its memory; running the candidates is the engine's
// affair.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace bumblebee::engine {

class ContrastiveState {
 public:
  /// Candidates for the next token with their probabilities, likeliest first.
  std::vector<std::pair<int32_t, double>> candidates;

  /// Adds hidden states (after the final norm) of tokens that are part of the sequence: rows·d_model values.
  void remember(std::span<const float> hidden, int d_model);

  /// Index of the candidate with the largest (1 - alpha)·p - alpha·max cosine; hidden[i] is candidate i's state. The
  /// likelier of equals.
  int choose(const std::vector<std::span<const float>>& hidden, double alpha) const;

 private:
  std::vector<float> directions_;  // [tokens, d_model], each of length 1
};

}  // namespace bumblebee::engine
