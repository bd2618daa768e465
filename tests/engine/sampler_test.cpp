// Processors against transformers' own; the draw against exact probabilities; errors by name.
#include "engine/sampler.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/rng.h"

namespace bumblebee::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

GenerationConfig config_of(const Json& json) {
  GenerationConfig config;
  MultinomialSampling sampling;
  sampling.top_k = json.value("top_k", 0);
  sampling.top_p = json.value("top_p", 1.0);
  sampling.min_p = json.value("min_p", 0.0);
  config.strategy = sampling;
  config.temperature = json.value("temperature", 1.0);
  config.repetition_penalty = json.value("repetition_penalty", 1.0);
  config.presence_penalty = json.value("presence_penalty", 0.0);
  config.frequency_penalty = json.value("frequency_penalty", 0.0);
  config.no_repeat_ngram_length = json.value("no_repeat_ngram", 0);
  if (json.contains("min_length")) config.min_length = json["min_length"].get<int>();
  if (json.contains("min_new_tokens")) config.min_new_tokens = json["min_new_tokens"].get<int>();
  config.eos_token_ids = json.value("eos", std::vector<int32_t>{});
  config.suppressed_token_ids = json.value("suppressed", std::vector<int32_t>{});
  if (json.contains("bias")) {
    for (const auto& [id, bias] : json["bias"].items()) config.logit_bias[std::stoi(id)] = bias.get<double>();
  }
  return config;
}

TEST(Sampler, ProcessesAsTransformersDoes) {
  const std::string path = BB_TEST_DATA "/goldens/sampler.json";
  const Json goldens = parse_json(read_text_file(path, 1 << 22), path);
  int compared = 0;
  for (const Json& one : goldens["cases"]) {
    const auto logits = one["logits"].get<std::vector<float>>();
    const auto prompt = one["prompt"].get<std::vector<int32_t>>();
    Sampler sampler(config_of(one["config"]), prompt, int(logits.size()), 0);
    for (int32_t token : one["output"].get<std::vector<int32_t>>()) sampler.accept(token);
    SamplerScratch scratch;
    sampler.process(logits, scratch);
    for (size_t i = 0; i < logits.size(); ++i) {
      const Json& want = one["processed"][i];
      if (want.is_null()) {
        EXPECT_EQ(scratch.scores[i], -kInf) << one["config"] << " token " << i;
      } else {
        EXPECT_NEAR(scratch.scores[i], want.get<float>(), 2e-6 * std::max(1.f, std::fabs(want.get<float>())))
            << one["config"] << " token " << i;
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 50 * 40);
}

TEST(Sampler, GreedyTakesTheLowestOfEqualTokens) {
  const std::vector<int32_t> prompt = {0};
  Sampler sampler({}, prompt, 4, 0);
  SamplerScratch scratch;
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3, 2}, scratch), 1);
  GenerationConfig cold;
  cold.strategy = MultinomialSampling{};
  cold.temperature = 0;
  EXPECT_EQ(Sampler(cold, prompt, 4, 0).sample(std::vector<float>{-1, -5, -1, -2}, scratch), 0);
}

TEST(Sampler, DrawsTheDistribution) {
  // 4000 draws with fixed seeds: a chi-square statistic with 4 degrees of freedom stays below 20 (p < 0.0005
  // otherwise).
  const std::vector<double> p = {0.4, 0.3, 0.15, 0.1, 0.05};
  std::vector<float> logits;
  for (double v : p) logits.push_back(float(std::log(v)) + 7.f);
  GenerationConfig config;
  config.strategy = MultinomialSampling{};
  std::vector<int> counts(p.size());
  const std::vector<int32_t> prompt = {0};
  SamplerScratch scratch;
  constexpr int kDraws = 4000;
  for (int seed = 0; seed < kDraws; ++seed)
    ++counts[size_t(Sampler(config, prompt, 5, uint64_t(seed)).sample(logits, scratch))];
  double chi = 0;
  for (size_t i = 0; i < p.size(); ++i)
    chi += (counts[i] - kDraws * p[i]) * (counts[i] - kDraws * p[i]) / (kDraws * p[i]);
  EXPECT_LT(chi, 20.0);
}

TEST(Sampler, DrawIsTheInverseOfTheCumulativeDistribution) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  GenerationConfig config;
  config.strategy = MultinomialSampling{};
  SamplerScratch scratch;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::vector<int32_t> prompt = {1, 2};
    Sampler sampler(config, prompt, 3, seed);
    sampler.accept(0);  // the second token: counter 1
    const double u = uniform01(seed, 1);
    EXPECT_EQ(sampler.sample(logits, scratch), u < 0.5 ? 0 : u < 0.75 ? 1 : 2) << u;
  }
}

TEST(Sampler, TopPOfAFlatDistributionKeepsTheRightNumber) {
  std::vector<float> logits(5000, 0.f);
  GenerationConfig config;
  config.strategy = MultinomialSampling{.top_k = 0, .top_p = 0.5, .min_p = 0};
  const std::vector<int32_t> prompt = {0};
  SamplerScratch scratch;
  Sampler(config, prompt, 5000, 0).process(logits, scratch);
  EXPECT_EQ(std::count(scratch.scores.begin(), scratch.scores.end(), 0.f), 2500);
  for (int i = 0; i < 2500; ++i) ASSERT_EQ(scratch.scores[size_t(i)], 0.f);  // equal ones: the lowest ids
}

TEST(Sampler, ForcedTokensComeBeforeEverything) {
  GenerationConfig config;
  config.forced_token_ids = {{0, 2}, {2, 0}};
  config.suppressed_token_ids = {2};
  const std::vector<int32_t> prompt = {1};
  Sampler sampler(config, prompt, 4, 0);
  SamplerScratch scratch;
  std::vector<int32_t> chosen;
  for (int i = 0; i < 3; ++i) {
    chosen.push_back(sampler.sample(std::vector<float>{1, 2, 9, 3}, scratch));
    sampler.accept(chosen.back());
  }
  EXPECT_EQ(chosen, (std::vector<int32_t>{2, 3, 0}));
}

ErrorCode code_of(const GenerationConfig& config, const std::vector<float>& logits) {
  const std::vector<int32_t> prompt = {0};
  SamplerScratch scratch;
  try {
    Sampler(config, prompt, int(logits.size()), 0).sample(logits, scratch);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::cancelled;
}

TEST(Sampler, RefusesWhatHasNoAnswer) {
  EXPECT_EQ(code_of({}, {0, std::nanf(""), 1}), ErrorCode::device);
  EXPECT_EQ(code_of({}, {0, kInf, 1}), ErrorCode::device);
  GenerationConfig all;
  all.suppressed_token_ids = {0, 1};
  EXPECT_EQ(code_of(all, {1, 2}), ErrorCode::bad_request);
  GenerationConfig outside;
  outside.logit_bias[7] = 1;
  EXPECT_EQ(code_of(outside, {1, 2}), ErrorCode::bad_request);
}

TEST(Sampler, LogprobsAreOfTheRawDistribution) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.7f)};
  const Logprobs got = logprobs_of(logits, 1, 2);
  EXPECT_NEAR(got.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(got.top.size(), 2u);
  EXPECT_EQ(got.top[0].first, 2);
  EXPECT_NEAR(got.top[0].second, std::log(0.7), 1e-6);
  EXPECT_EQ(got.top[1].first, 1);
}

TEST(Sampler, CandidatesCarryProbabilities) {
  const std::vector<float> logits = {0, std::log(3.f), std::log(2.f), std::log(4.f)};
  const std::vector<int32_t> prompt = {0};
  Sampler sampler({}, prompt, 4, 0);
  SamplerScratch scratch;
  sampler.process(logits, scratch);
  const auto got = sampler.candidates(scratch, 2);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].first, 3);
  EXPECT_NEAR(got[0].second, 0.4, 1e-6);
  EXPECT_EQ(got[1].first, 1);
}

}  // namespace
}  // namespace bumblebee::engine
