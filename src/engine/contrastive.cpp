// Cost per token: candidates · tokens so far · d_model multiplications on the host.
#include "engine/contrastive.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace bumblebee::engine {
namespace {

double dot(const float* a, const float* b, size_t size) {
  double sum = 0;
  for (size_t i = 0; i < size; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

double length(std::span<const float> v) { return std::max(std::sqrt(dot(v.data(), v.data(), v.size())), 1e-30); }

}  // namespace

std::optional<ContrastiveSearcher> ContrastiveSearcher::make(const GenerationConfig& config, int d_model) {
  const auto* settings = std::get_if<ContrastiveSearch>(&config.strategy);
  if (settings == nullptr || is_greedy(config)) return std::nullopt;
  return ContrastiveSearcher(*settings, d_model);
}

void ContrastiveSearcher::remember(std::span<const float> hidden) {
  const size_t d = size_t(d_model_);
  BB_CHECK(hidden.size() % d == 0);
  for (size_t row = 0; row < hidden.size(); row += d) {
    const double scale = 1 / length(hidden.subspan(row, d));
    for (size_t i = 0; i < d; ++i) directions_.push_back(float(double(hidden[row + i]) * scale));
  }
}

std::vector<int32_t> ContrastiveSearcher::propose(const Sampler& sampler, std::span<const int32_t> tokens,
                                                  std::span<const float> logits) {
  candidates_ = sampler.candidates(tokens, logits, settings_.top_k);
  logprobs_.clear();
  std::vector<int32_t> proposed;
  for (const auto& [token, probability] : candidates_) {
    proposed.push_back(token);
    logprobs_.push_back(sampler.logprob(logits, token));
  }
  return proposed;
}

int ContrastiveSearcher::choose(const std::vector<std::span<const float>>& hidden) {
  BB_CHECK(hidden.size() == candidates_.size() && !hidden.empty());
  int best = 0;
  double best_score = -std::numeric_limits<double>::infinity();
  for (size_t c = 0; c < hidden.size(); ++c) {
    const size_t d = hidden[c].size();
    double nearest = -std::numeric_limits<double>::infinity();
    for (size_t row = 0; row < directions_.size(); row += d)
      nearest = std::max(nearest, dot(&directions_[row], hidden[c].data(), d));
    const double score = (1 - settings_.alpha) * candidates_[c].second - settings_.alpha * nearest / length(hidden[c]);
    if (score > best_score) {
      best_score = score;
      best = int(c);
    }
  }
  remember(hidden[size_t(best)]);
  return best;
}

}  // namespace bumblebee::engine
