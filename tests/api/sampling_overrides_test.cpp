// What a request says over what the model's author says.
#include <gtest/gtest.h>

#include "bumblebee/generation_config.h"

namespace bumblebee {
namespace {

GenerationConfig authors() {
  GenerationConfig config;
  config.strategy = MultinomialSampling{.top_k = 20, .top_p = 0.8, .min_p = 0.1};
  config.temperature = 0.7;
  return config;
}

GenerationConfig with(const SamplingOverrides& overrides, GenerationConfig config) {
  apply(overrides, config);
  return config;
}

TEST(SamplingOverrides, NothingChangesNothing) {
  const GenerationConfig config = with({}, authors());
  const auto sampling = std::get<MultinomialSampling>(config.strategy);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.top_p, 0.8);
  EXPECT_EQ(sampling.min_p, 0.1);
  EXPECT_EQ(config.temperature, 0.7);
  EXPECT_EQ(config.seed, std::nullopt);
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(with({}, {}).strategy));
  EXPECT_TRUE(std::holds_alternative<GreedySearch>(with({.presence_penalty = 1.0, .seed = 4}, {}).strategy));
}

TEST(SamplingOverrides, ATemperatureOrAFilterAsksForADraw) {
  EXPECT_TRUE(std::holds_alternative<MultinomialSampling>(with({.temperature = 0.5}, {}).strategy));
  EXPECT_EQ(std::get<MultinomialSampling>(with({.top_k = 5}, {}).strategy).top_k, 5);
  EXPECT_EQ(std::get<MultinomialSampling>(with({.min_p = 0.2}, {}).strategy).min_p, 0.2);
  GenerationConfig contrastive;
  contrastive.strategy = ContrastiveSearch{};
  EXPECT_TRUE(std::holds_alternative<MultinomialSampling>(with({.top_p = 0.9}, contrastive).strategy));
}

TEST(SamplingOverrides, AFilterThatIsOffAsksForNothing) {
  GenerationConfig contrastive;
  contrastive.strategy = ContrastiveSearch{};
  for (const SamplingOverrides& off : {SamplingOverrides{.top_k = 0},
                                       {.top_k = -1},
                                       {.top_p = 1.0},
                                       {.min_p = 0.0},
                                       {.top_k = 0, .top_p = 1.0, .min_p = 0.0}}) {
    EXPECT_TRUE(std::holds_alternative<GreedySearch>(with(off, {}).strategy));
    EXPECT_TRUE(std::holds_alternative<ContrastiveSearch>(with(off, contrastive).strategy));
  }
  const auto sampling =
      std::get<MultinomialSampling>(with({.top_k = 0, .top_p = 1.0, .min_p = 0.0}, authors()).strategy);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.top_p, 1.0);
  EXPECT_EQ(sampling.min_p, 0.0);
  // A temperature is a draw, whatever else is off.
  EXPECT_TRUE(std::holds_alternative<MultinomialSampling>(with({.temperature = 1.0, .top_p = 1.0}, {}).strategy));
}

TEST(SamplingOverrides, FiltersThatAreNotNamedStay) {
  const auto sampling = std::get<MultinomialSampling>(with({.temperature = 1.5, .top_p = 0.5}, authors()).strategy);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.top_p, 0.5);
  EXPECT_EQ(sampling.min_p, 0.1);
  EXPECT_EQ(with({.top_p = 0.5}, authors()).temperature, 0.7);
  EXPECT_EQ(std::get<MultinomialSampling>(with({.top_k = -1}, authors()).strategy).top_k, 0);
}

TEST(SamplingOverrides, ZeroIsGreedy) {
  for (const SamplingOverrides& zero :
       {SamplingOverrides{.temperature = 0.0, .top_k = 5}, {.top_p = 0.0}, {.temperature = 0.9, .top_p = 0.0}}) {
    const GenerationConfig config = with(zero, authors());
    EXPECT_TRUE(std::holds_alternative<GreedySearch>(config.strategy));
    EXPECT_EQ(config.temperature, 1.0);
    validate(config);
  }
}

TEST(SamplingOverrides, PenaltiesAndSeed) {
  const GenerationConfig config =
      with({.repetition_penalty = 1.1, .presence_penalty = 0.2, .frequency_penalty = -0.3, .seed = 9}, authors());
  EXPECT_EQ(config.repetition_penalty, 1.1);
  EXPECT_EQ(config.presence_penalty, 0.2);
  EXPECT_EQ(config.frequency_penalty, -0.3);
  EXPECT_EQ(config.seed, 9u);
}

}  // namespace
}  // namespace bumblebee
