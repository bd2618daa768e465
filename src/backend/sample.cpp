// Written to be read, not to be fast: cpu/sample.cpp gives the same in one pass over the logits.
#include "backend/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/rng.h"

namespace bumblebee {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMasked = -kInfinity;

/// False with NaN or +infinity: a model that overflowed would otherwise answer with token 0 for ever.
bool all_finite(std::span<const float> logits) {
  return std::all_of(logits.begin(), logits.end(), [](float x) { return x < kInfinity; });
}

void keep_top_k(SampleScratch& scratch, int top_k) {
  collect_unmasked(scratch);
  if (top_k <= 0 || size_t(top_k) >= scratch.order.size()) return;
  const auto kth = scratch.order.begin() + (top_k - 1);
  std::nth_element(scratch.order.begin(), kth, scratch.order.end(), Likelier{scratch.scores});
  const float threshold = scratch.scores[size_t(*kth)];  // ties with it stay, as in transformers
  for (float& s : scratch.scores) {
    if (s < threshold) s = kMasked;
  }
}

/// A token stays while the mass of likelier ones is below p.
void keep_top_p(SampleScratch& scratch, double top_p, double max) {
  if (top_p >= 1) return;
  collect_unmasked(scratch);
  auto& order = scratch.order;
  std::sort(order.begin(), order.end(), Likelier{scratch.scores});
  const double wanted = top_p * partition(scratch.scores, max);
  double mass = 0;
  size_t kept = 0;
  while (kept < order.size() && mass < wanted) mass += std::exp(double(scratch.scores[size_t(order[kept++])]) - max);
  for (size_t i = std::max<size_t>(kept, 1); i < order.size(); ++i) scratch.scores[size_t(order[i])] = kMasked;
}

int32_t draw(SampleScratch& scratch, const SampleRow& row) {
  const int32_t best = argmax(scratch.scores);
  const double max = double(scratch.scores[size_t(best)]);
  if (std::isinf(max)) return best;
  collect_unmasked(scratch);
  // The cumulative distribution in order of id, in f64: one number in [0, 1) gives one token, whatever the machine's
  // vector width.
  scratch.weights.clear();
  double total = 0;
  for (int32_t id : scratch.order) {
    total += std::exp(double(scratch.scores[size_t(id)]) - max);
    scratch.weights.push_back(total);
  }
  const double u = uniform01(row.seed, row.draw) * total;
  const auto found = std::upper_bound(scratch.weights.begin(), scratch.weights.end(), u);
  const size_t index = std::min(size_t(found - scratch.weights.begin()), scratch.order.size() - 1);
  return scratch.order[index];
}

}  // namespace

float changed(float logit, const LogitChange& change) {
  float s = logit + change.add;
  s = s < 0 ? s * change.penalty : s / change.penalty;
  s -= change.subtract;
  return std::isnan(s) ? kMasked : s;
}

int32_t argmax(std::span<const float> values) {
  int32_t best = -1;
  float best_value = kMasked;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > best_value) {
      best_value = values[i];
      best = int32_t(i);
    }
  }
  return best;
}

void collect_unmasked(SampleScratch& scratch) {
  scratch.order.clear();
  for (size_t i = 0; i < scratch.scores.size(); ++i) {
    if (scratch.scores[i] != kMasked) scratch.order.push_back(int32_t(i));
  }
}

double partition(std::span<const float> scores, double max) {
  double sum = 0;
  for (float s : scores) {
    if (s != kMasked) sum += std::exp(double(s) - max);
  }
  return sum;
}

int32_t process(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes,
                SampleScratch& scratch) {
  if (!all_finite(logits)) return kNotFinite;
  scratch.scores.assign(logits.begin(), logits.end());
  const std::span<float> scores(scratch.scores);
  for (const LogitChange& change : changes)
    scores[size_t(change.token)] = changed(scores[size_t(change.token)], change);
  if (row.forced >= 0) {
    std::fill(scores.begin(), scores.end(), kMasked);
    scores[size_t(row.forced)] = 0;
  }
  if (argmax(scores) < 0) return kAllMasked;
  for (float& s : scores) s /= float(row.temperature);
  const int32_t best = argmax(scores);
  if (best < 0) return kAllMasked;
  // A largest score of +infinity (a bias or a temperature out of f32's range) is a certainty: nothing to filter.
  const double max = double(scores[size_t(best)]);
  if (row.mode != SampleRow::Mode::draw || std::isinf(max)) return 0;
  keep_top_k(scratch, row.top_k);
  keep_top_p(scratch, row.top_p, max);
  if (row.min_p > 0) {
    for (float& s : scores) {
      if (s != kMasked && std::exp(double(s) - max) < row.min_p) s = kMasked;
    }
  }
  return 0;
}

Choice choose(std::span<const float> logits, const SampleRow& row, std::span<const LogitChange> changes,
              SampleScratch& scratch) {
  if (row.mode == SampleRow::Mode::none) return {};
  if (const int32_t why = process(logits, row, changes, scratch); why < 0) return {.token = why, .logprobs = {}};
  const int32_t token = row.mode == SampleRow::Mode::greedy ? argmax(scratch.scores) : draw(scratch, row);
  if (!row.logprob) return {.token = token, .logprobs = {}};
  return {.token = token, .logprobs = logprobs_of(logits, token, row.top_logprobs)};
}

Logprobs logprobs_of(std::span<const float> logits, int32_t token, int top) {
  const int32_t best = argmax(logits);
  const double max = best < 0 ? 0 : double(logits[size_t(best)]);
  const double log_sum = max + std::log(partition(logits, max));
  Logprobs result{.logprob = double(logits[size_t(token)]) - log_sum, .top = {}};
  if (top <= 0) return result;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(order.size(), size_t(top));
  std::partial_sort(order.begin(), order.begin() + ptrdiff_t(count), order.end(), Likelier{logits});
  for (size_t i = 0; i < count; ++i) result.top.emplace_back(order[i], double(logits[size_t(order[i])]) - log_sum);
  return result;
}

}  // namespace bumblebee
