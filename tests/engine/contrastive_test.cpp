// The choice of contrastive search, by hand.
#include "engine/contrastive.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bumblebee::engine {
namespace {

/// A searcher that remembers `hidden` and has proposed all tokens of a vocabulary with these probabilities.
ContrastiveSearcher searcher(double alpha, const std::vector<float>& hidden, const std::vector<double>& probabilities) {
  GenerationConfig config;
  config.strategy = ContrastiveSearch{.top_k = int(probabilities.size()), .alpha = alpha};
  ContrastiveSearcher search = *ContrastiveSearcher::make(config, 2);
  search.remember(hidden);
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(float(std::log(p)));
  const std::vector<int32_t> prompt = {0};
  const Sampler sampler(config, prompt, int(logits.size()), 0);
  EXPECT_FALSE(search.proposed());
  EXPECT_EQ(search.propose(sampler, prompt, logits).size(), probabilities.size());
  EXPECT_TRUE(search.proposed());
  return search;
}

TEST(Contrastive, TakesTheLeastRepetitiveOfLikelyTokens) {
  const std::vector<float> a = {5, 0}, b = {-1, -1}, c = {-1, 0};
  const std::vector<std::span<const float>> hidden = {a, b, c};
  const auto choose = [&](double alpha) { return searcher(alpha, {2, 0, 0, 3}, {0.6, 0.3, 0.1}).choose(hidden); };
  // max cosines with (1, 0) and (0, 1): 1, -0.707, 0
  EXPECT_EQ(choose(0.0), 0);
  EXPECT_EQ(choose(0.6), 1);  // 0.24 - 0.6, 0.12 + 0.424, 0.04 - 0
  EXPECT_EQ(choose(1.0), 1);
}

TEST(Contrastive, OneCandidateIsTheGreedyChoice) {
  GenerationConfig config;
  config.strategy = ContrastiveSearch{.top_k = 1, .alpha = 0.6};
  EXPECT_TRUE(is_greedy(config));
  EXPECT_FALSE(ContrastiveSearcher::make(config, 2).has_value());
  std::vector<LogitChange> changes;
  const std::vector<int32_t> prompt = {0};
  EXPECT_EQ(Sampler(config, prompt, 3, 0).describe(prompt, changes).mode, SampleRow::Mode::greedy);
}

TEST(Contrastive, EqualScoresGoToTheLikelier) {
  const std::vector<float> same = {0, 1};
  ContrastiveSearcher search = searcher(0.5, {1, 0}, {0.5, 0.5});
  EXPECT_EQ(search.choose({same, same}), 0);
  EXPECT_EQ(search.token(0), 0) << "the lower id comes first";
}

TEST(Contrastive, IsNotWhatOtherStrategiesAskFor) {
  GenerationConfig config;
  EXPECT_FALSE(ContrastiveSearcher::make(config, 2));
  config.strategy = ContrastiveSearch{};
  EXPECT_TRUE(ContrastiveSearcher::make(config, 2));
  config.temperature = 0;
  EXPECT_FALSE(ContrastiveSearcher::make(config, 2)) << "greedy";
}

}  // namespace
}  // namespace bumblebee::engine
