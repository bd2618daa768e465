// Everything here is O(vocab) per token but top-p on a flat distribution, which sorts as many candidates as it keeps.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace bumblebee::engine {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

/// Whether candidate a comes before b: larger score first, lower id among equals. A total order, so results never
/// depend on a sort.
struct Likelier {
  std::span<const float> scores;
  bool operator()(int32_t a, int32_t b) const {
    const float x = scores[size_t(a)], y = scores[size_t(b)];
    return x != y ? x > y : a < b;
  }
};

/// Throws on NaN and +infinity: a model that overflowed would otherwise answer with token 0 for ever.
void require_finite(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      throw Error(ErrorCode::device, "sampler",
                  cat("the model produced a logit that is not a number: logit ", i, " is ", logits[i]));
    }
  }
}

void collect_unmasked(SamplerScratch& scratch) {
  scratch.order.clear();
  for (size_t i = 0; i < scratch.scores.size(); ++i) {
    if (scratch.scores[i] != kMasked) scratch.order.push_back(int32_t(i));
  }
}

/// Sum of exp(score - max) over unmasked tokens, in order of id, in f64.
double partition(std::span<const float> scores, double max) {
  double sum = 0;
  for (float s : scores) {
    if (s != kMasked) sum += std::exp(double(s) - max);
  }
  return sum;
}

}  // namespace

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

void require_ids(const GenerationConfig& config, int vocab) {
  const auto require_id = [vocab](int32_t id, const char* field) {
    if (id < 0 || id >= vocab) {
      throw Error(ErrorCode::bad_request, "generation config",
                  cat(field, ": expected ids below the vocabulary of ", vocab, ", got ", id));
    }
  };
  for (int32_t id : config.suppressed_token_ids) require_id(id, "suppressed_token_ids");
  for (const auto& [id, bias] : config.logit_bias) require_id(id, "logit_bias");
  for (const auto& [index, id] : config.forced_token_ids) require_id(id, "forced_token_ids");
}

Sampler::Sampler(const GenerationConfig& config, std::span<const int32_t> prompt, int vocab, uint64_t seed)
    : config_(config),
      prompt_size_(int(prompt.size())),
      vocab_(vocab),
      seed_(seed),
      history_(prompt.begin(), prompt.end()) {
  require_ids(config, vocab);
  if (config.repetition_penalty != 1.0) {
    seen_.assign(size_t(vocab), false);
    for (int32_t id : prompt) {
      if (seen_[size_t(id)]) continue;
      seen_[size_t(id)] = true;
      distinct_.push_back(id);
    }
  }
}

void Sampler::accept(int32_t token) {
  history_.push_back(token);
  if (config_.presence_penalty != 0 || config_.frequency_penalty != 0) ++output_counts_[token];
  if (!seen_.empty() && !seen_[size_t(token)]) {
    seen_[size_t(token)] = true;
    distinct_.push_back(token);
  }
}

bool Sampler::is_eos(int32_t token) const {
  return std::find(config_.eos_token_ids.begin(), config_.eos_token_ids.end(), token) != config_.eos_token_ids.end();
}

bool Sampler::greedy() const {
  if (config_.temperature == 0 || std::holds_alternative<GreedySearch>(config_.strategy)) return true;
  const auto* sampling = std::get_if<MultinomialSampling>(&config_.strategy);
  return sampling != nullptr && sampling->top_k == 1;
}

void Sampler::penalise(std::span<float> scores) const {
  for (const auto& [id, bias] : config_.logit_bias) scores[size_t(id)] += float(bias);
  const float penalty = float(config_.repetition_penalty);
  for (int32_t id : distinct_) {
    float& s = scores[size_t(id)];
    s = s < 0 ? s * penalty : s / penalty;
  }
  for (const auto& [id, count] : output_counts_) {
    scores[size_t(id)] -= float(config_.presence_penalty + config_.frequency_penalty * count);
  }
}

void Sampler::ban_repeated_ngrams(std::span<float> scores) const {
  const size_t n = size_t(config_.no_repeat_ngram_length);
  if (n == 0 || history_.size() + 1 < n) return;
  const size_t context = n - 1;
  const auto tail = history_.end() - ptrdiff_t(context);
  for (size_t i = 0; i + context < history_.size(); ++i) {
    if (std::equal(tail, history_.end(), history_.begin() + ptrdiff_t(i)))
      scores[size_t(history_[i + context])] = kMasked;
  }
}

void Sampler::mask(std::span<float> scores) const {
  const bool too_short =
      outputs() < config_.min_new_tokens.value_or(0) || int(history_.size()) < config_.min_length.value_or(0);
  if (too_short) {
    for (int32_t id : config_.eos_token_ids) {
      if (id < vocab_) scores[size_t(id)] = kMasked;
    }
  }
  for (int32_t id : config_.suppressed_token_ids) scores[size_t(id)] = kMasked;
  if (const auto forced = config_.forced_token_ids.find(outputs()); forced != config_.forced_token_ids.end()) {
    std::fill(scores.begin(), scores.end(), kMasked);
    scores[size_t(forced->second)] = 0;
  }
}

void Sampler::keep_top_k(SamplerScratch& scratch, int top_k) const {
  collect_unmasked(scratch);
  if (top_k <= 0 || size_t(top_k) >= scratch.order.size()) return;
  const auto kth = scratch.order.begin() + (top_k - 1);
  std::nth_element(scratch.order.begin(), kth, scratch.order.end(), Likelier{scratch.scores});
  const float threshold = scratch.scores[size_t(*kth)];  // ties with it stay, as in transformers
  for (float& s : scratch.scores) {
    if (s < threshold) s = kMasked;
  }
}

void Sampler::keep_top_p(SamplerScratch& scratch, double top_p) const {
  if (top_p >= 1) return;
  collect_unmasked(scratch);
  auto& order = scratch.order;
  const double max = double(scratch.scores[size_t(argmax(scratch.scores))]);
  const double wanted = top_p * partition(scratch.scores, max);
  // A token stays while the mass of likelier ones is below p. Sorted piece by piece: most of the mass is in few tokens.
  double mass = 0;
  size_t kept = 0, sorted = 0, piece = 64;
  while (kept < order.size() && mass < wanted) {
    if (kept == sorted) {
      const size_t end = std::min(order.size(), sorted + piece);
      const auto first = order.begin() + ptrdiff_t(sorted), last = order.begin() + ptrdiff_t(end);
      if (end < order.size()) std::nth_element(first, last, order.end(), Likelier{scratch.scores});
      std::sort(first, last, Likelier{scratch.scores});
      sorted = end;
      piece *= 4;
    }
    mass += std::exp(double(scratch.scores[size_t(order[kept])]) - max);
    ++kept;
  }
  for (size_t i = std::max<size_t>(kept, 1); i < order.size(); ++i) scratch.scores[size_t(order[i])] = kMasked;
}

void Sampler::process(std::span<const float> logits, SamplerScratch& scratch) const {
  BB_CHECK(int(logits.size()) == vocab_, "row of ", logits.size(), " logits, vocabulary of ", vocab_);
  require_finite(logits);
  scratch.scores.assign(logits.begin(), logits.end());
  std::span<float> scores(scratch.scores);
  penalise(scores);
  ban_repeated_ngrams(scores);
  mask(scores);
  if (argmax(scores) < 0) {
    throw Error(ErrorCode::bad_request, "sampler",
                "no token is left to choose: no-repeat n-grams, minimum length and suppressed tokens mask the whole "
                "vocabulary");
  }
  if (config_.temperature > 0 && config_.temperature != 1) {
    const float temperature = float(config_.temperature);
    for (float& s : scores) s /= temperature;
  }
  const auto* sampling = std::get_if<MultinomialSampling>(&config_.strategy);
  if (sampling == nullptr || greedy()) return;
  if (sampling->top_k > 0) keep_top_k(scratch, sampling->top_k);
  keep_top_p(scratch, sampling->top_p);
  if (sampling->min_p > 0) {
    const double max = double(scratch.scores[size_t(argmax(scores))]);
    for (float& s : scores) {
      if (s != kMasked && std::exp(double(s) - max) < sampling->min_p) s = kMasked;
    }
  }
}

int32_t Sampler::draw(SamplerScratch& scratch) const {
  const std::span<const float> scores(scratch.scores);
  const double max = double(scores[size_t(argmax(scores))]);
  collect_unmasked(scratch);
  // The cumulative distribution in order of id, in f64: one number in [0, 1) gives one token, whatever the machine's
  // vector width.
  scratch.weights.clear();
  double total = 0;
  for (int32_t id : scratch.order) {
    total += std::exp(double(scores[size_t(id)]) - max);
    scratch.weights.push_back(total);
  }
  const double u = uniform01(seed_, uint64_t(outputs())) * total;
  const auto found = std::upper_bound(scratch.weights.begin(), scratch.weights.end(), u);
  const size_t index = std::min(size_t(found - scratch.weights.begin()), scratch.order.size() - 1);
  return scratch.order[index];
}

int32_t Sampler::sample(std::span<const float> logits, SamplerScratch& scratch) const {
  process(logits, scratch);
  return greedy() ? argmax(scratch.scores) : draw(scratch);
}

std::vector<std::pair<int32_t, double>> Sampler::candidates(SamplerScratch& scratch, int count) const {
  collect_unmasked(scratch);
  auto& order = scratch.order;
  const size_t wanted = std::min(order.size(), size_t(count));
  std::partial_sort(order.begin(), order.begin() + ptrdiff_t(wanted), order.end(), Likelier{scratch.scores});
  const double max = double(scratch.scores[size_t(order.front())]);
  const double sum = partition(scratch.scores, max);
  std::vector<std::pair<int32_t, double>> result;
  for (size_t i = 0; i < wanted; ++i)
    result.emplace_back(order[i], std::exp(double(scratch.scores[size_t(order[i])]) - max) / sum);
  return result;
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

}  // namespace bumblebee::engine
