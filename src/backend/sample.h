// From one row of logits to one token: what Ops::sample means, in plain scalar code. `ref` runs it, the engine's host
// code stands on it, and every other backend gives the same tokens and the same bits of logprobs.
//
// Order, which is transformers' with Bumblebee's in it: changes of single tokens (bias, penalties, masks), the forced
// token, temperature, top-k, top-p, min-p, then a draw.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/batch.h"

namespace bumblebee {

/// Ids that say why there is no token.
inline constexpr int32_t kNotFinite = -1, kAllMasked = -2, kNotAsked = -3;

/// Buffers of one row, kept so that a step allocates nothing.
struct SampleScratch {
  std::vector<float> scores;    // [vocab]
  std::vector<double> weights;  // of candidates
  std::vector<int32_t> order;   // candidates
};

/// The logprob of one token and of the likeliest ones, from the distribution before any change.
struct Logprobs {
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;  // likeliest first; equal ones by id
};

struct Choice {
  int32_t token = kNotAsked;
  Logprobs logprobs;  // where a token was chosen and the row asks
};

/// Whether candidate a comes before b: larger score first, lower id among equals. A total order, so results never
/// depend on a sort.
struct Likelier {
  std::span<const float> scores;
  bool operator()(int32_t a, int32_t b) const {
    const float x = scores[size_t(a)], y = scores[size_t(b)];
    return x != y ? x > y : a < b;
  }
};

/// The logit of a changed token. What leaves the numbers (0/0, infinity - infinity: settings out of f32's range) is
/// masked.
float changed(float logit, const LogitChange& change);

/// Largest value, lowest index; -infinity everywhere gives -1.
int32_t argmax(std::span<const float> values);
/// Ids of scores above -infinity, ascending, into scratch.order.
void collect_unmasked(SampleScratch& scratch);
/// Sum of exp(score - max) in order of id, in f64.
double partition(std::span<const float> scores, double max);

/// The row's scores after all processors into scratch.scores, masked tokens as -infinity: filters only for
/// Mode::draw. Returns 0, or kNotFinite or kAllMasked.
int32_t process(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes,
                SampleScratch& scratch);

/// `changes` are the row's own.
Choice choose(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes,
              SampleScratch& scratch);

/// Log-probabilities of `token` and of the `top` likeliest tokens of a row of raw logits.
Logprobs logprobs_of(std::span<const float> logits, int32_t token, int top);

}  // namespace bumblebee
