// The choice of contrastive search, by hand.
#include "engine/contrastive.h"

#include <gtest/gtest.h>

namespace bumblebee::engine {
namespace {

TEST(Contrastive, TakesTheLeastRepetitiveOfLikelyTokens) {
  ContrastiveState state;
  state.remember(std::vector<float>{2, 0, 0, 3}, 2);
  state.candidates = {{10, 0.6}, {11, 0.3}, {12, 0.1}};
  const std::vector<float> a = {5, 0}, b = {-1, -1}, c = {-1, 0};
  const std::vector<std::span<const float>> hidden = {a, b, c};
  // max cosines with (1, 0) and (0, 1): 1, -0.707, 0
  EXPECT_EQ(state.choose(hidden, 0.0), 0);
  EXPECT_EQ(state.choose(hidden, 0.6), 1);  // 0.24 - 0.6, 0.12 + 0.424, 0.04 - 0
  EXPECT_EQ(state.choose(hidden, 1.0), 1);
}

TEST(Contrastive, EqualScoresGoToTheLikelier) {
  ContrastiveState state;
  state.remember(std::vector<float>{1, 0}, 2);
  state.candidates = {{3, 0.5}, {4, 0.5}};
  const std::vector<float> same = {0, 1};
  EXPECT_EQ(state.choose({same, same}, 0.5), 0);
}

}  // namespace
}  // namespace bumblebee::engine
