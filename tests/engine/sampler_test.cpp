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
#include "tests/support/random.h"

namespace bumblebee::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// A sampler with its sequence, chosen for on the host by the definition of Ops::sample.
class Chooser {
 public:
  Chooser(const GenerationConfig& config, const std::vector<int32_t>& prompt, int vocab, uint64_t seed)
      : sampler_(config, prompt, vocab, seed), tokens_(prompt) {}
  void accept(int32_t token) {
    tokens_.push_back(token);
    sampler_.accept(token);
  }
  void process(std::span<const float> logits) {
    changes_.clear();
    const SampleRow row = sampler_.describe(tokens_, changes_);
    require_chosen(bumblebee::process(logits, row, changes_, scratch));
  }
  int32_t sample(std::span<const float> logits) {
    changes_.clear();
    SampleRow row = sampler_.describe(tokens_, changes_);
    row.logprob = false;
    const int32_t token = choose(logits, row, changes_, scratch).token;
    require_chosen(token);
    return token;
  }
  SampleScratch scratch;

 private:
  Sampler sampler_;
  std::vector<int32_t> tokens_;
  std::vector<LogitChange> changes_;
};

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
    Chooser sampler(config_of(one["config"]), prompt, int(logits.size()), 0);
    for (int32_t token : one["output"].get<std::vector<int32_t>>()) sampler.accept(token);
    sampler.process(logits);
    for (size_t i = 0; i < logits.size(); ++i) {
      const Json& want = one["processed"][i];
      if (want.is_null()) {
        EXPECT_EQ(sampler.scratch.scores[i], -kInf) << one["config"] << " token " << i;
      } else {
        EXPECT_NEAR(sampler.scratch.scores[i], want.get<float>(), 2e-6 * std::max(1.f, std::fabs(want.get<float>())))
            << one["config"] << " token " << i;
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 50 * 40);
}

/// Any settings at all, most of them on.
GenerationConfig random_config(testing_support::Random& random, int vocab) {
  const auto one_in = [&](int n) { return random.integer(1, n) == 1; };
  const auto id = [&] { return int32_t(random.integer(0, vocab - 1)); };
  GenerationConfig config;
  if (!one_in(4)) {
    MultinomialSampling sampling;
    if (one_in(2)) sampling.top_k = random.integer(1, one_in(3) ? vocab + 2 : 6);
    if (one_in(2)) sampling.top_p = random.uniform(0.02, 1);
    if (one_in(3)) sampling.min_p = random.uniform(0, 0.6);
    config.strategy = sampling;
  }
  if (one_in(2)) config.temperature = one_in(5) ? 0 : random.uniform(0.1, 2.5);
  if (one_in(3)) config.repetition_penalty = random.uniform(0.6, 1.8);
  if (one_in(3)) config.presence_penalty = random.uniform(-1, 1.5);
  if (one_in(3)) config.frequency_penalty = random.uniform(-1, 1.5);
  if (one_in(3)) config.no_repeat_ngram_length = random.integer(1, 3);
  if (one_in(3)) config.min_new_tokens = random.integer(0, 12);
  if (!config.min_new_tokens && one_in(3)) config.min_length = random.integer(0, 20);
  for (int i = random.integer(0, 2); i > 0; --i) config.eos_token_ids.push_back(id());
  if (one_in(3)) config.suppressed_token_ids = {id(), id()};
  for (int i = one_in(3) ? random.integer(1, 4) : 0; i > 0; --i) config.logit_bias[id()] = random.uniform(-6, 6);
  if (one_in(4)) config.forced_token_ids[random.integer(0, 10)] = id();
  return config;
}

/// The hash was taken from the sampler that this one replaced, which went through all processors one after the other
/// over every row: tokens, and which were left after the processors.
TEST(Sampler, ChoosesAsItAlwaysDid) {
  testing_support::Random random(11);
  uint64_t hash = 0xCBF29CE484222325u;
  const auto mix = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001B3u; };
  int chosen = 0;
  for (int round = 0; round < 3000; ++round) {
    const int vocab = random.integer(2, 90);
    std::vector<int32_t> prompt;
    for (int i = random.integer(1, 6); i > 0; --i) prompt.push_back(random.integer(0, vocab - 1));
    Chooser sampler(random_config(random, vocab), prompt, vocab, uint64_t(round));
    for (int step = 0; step < 12; ++step) {
      std::vector<float> logits = random.normals(size_t(vocab), 3);
      if (round % 2 == 1) {
        for (float& v : logits) v = std::round(v);  // many are equal
      }
      try {
        const int32_t token = sampler.sample(logits);
        sampler.process(logits);
        mix(uint64_t(std::count(sampler.scratch.scores.begin(), sampler.scratch.scores.end(), -kInf)));
        mix(uint64_t(token));
        sampler.accept(token);
        ++chosen;
      } catch (const Error& error) {
        mix(1000 + uint64_t(error.code()));
        break;
      }
    }
  }
  EXPECT_GT(chosen, 30000);
  EXPECT_EQ(hash, 0x94AEE32BB6CEC331u);
}

TEST(Sampler, GreedyTakesTheLowestOfEqualTokens) {
  const std::vector<int32_t> prompt = {0};
  Chooser sampler({}, prompt, 4, 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3, 2}), 1);
  GenerationConfig cold;
  cold.strategy = MultinomialSampling{};
  cold.temperature = 0;
  EXPECT_EQ(Chooser(cold, prompt, 4, 0).sample(std::vector<float>{-1, -5, -1, -2}), 0);
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
  constexpr int kDraws = 4000;
  for (int seed = 0; seed < kDraws; ++seed) ++counts[size_t(Chooser(config, prompt, 5, uint64_t(seed)).sample(logits))];
  double chi = 0;
  for (size_t i = 0; i < p.size(); ++i)
    chi += (counts[i] - kDraws * p[i]) * (counts[i] - kDraws * p[i]) / (kDraws * p[i]);
  EXPECT_LT(chi, 20.0);
}

TEST(Sampler, DrawIsTheInverseOfTheCumulativeDistribution) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  GenerationConfig config;
  config.strategy = MultinomialSampling{};
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::vector<int32_t> prompt = {1, 2};
    Chooser sampler(config, prompt, 3, seed);
    sampler.accept(0);  // the second token: counter 1
    const double u = uniform01(seed, 1);
    EXPECT_EQ(sampler.sample(logits), u < 0.5 ? 0 : u < 0.75 ? 1 : 2) << u;
  }
}

TEST(Sampler, TopPOfAFlatDistributionKeepsTheRightNumber) {
  std::vector<float> logits(5000, 0.f);
  GenerationConfig config;
  config.strategy = MultinomialSampling{.top_k = 0, .top_p = 0.5, .min_p = 0};
  const std::vector<int32_t> prompt = {0};
  Chooser sampler(config, prompt, 5000, 0);
  sampler.process(logits);
  EXPECT_EQ(std::count(sampler.scratch.scores.begin(), sampler.scratch.scores.end(), 0.f), 2500);
  for (int i = 0; i < 2500; ++i) ASSERT_EQ(sampler.scratch.scores[size_t(i)], 0.f);  // equal ones: the lowest ids
}

TEST(Sampler, ForcedTokensComeBeforeEverything) {
  GenerationConfig config;
  config.forced_token_ids = {{0, 2}, {2, 0}};
  config.suppressed_token_ids = {2};
  const std::vector<int32_t> prompt = {1};
  Chooser sampler(config, prompt, 4, 0);
  std::vector<int32_t> chosen;
  for (int i = 0; i < 3; ++i) {
    chosen.push_back(sampler.sample(std::vector<float>{1, 2, 9, 3}));
    sampler.accept(chosen.back());
  }
  EXPECT_EQ(chosen, (std::vector<int32_t>{2, 3, 0}));
}

ErrorCode code_of(const GenerationConfig& config, const std::vector<float>& logits) {
  const std::vector<int32_t> prompt = {0};
  try {
    Chooser(config, prompt, int(logits.size()), 0).sample(logits);
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
  const auto got = Sampler({}, prompt, 4, 0).candidates(prompt, logits, 2);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].first, 3);
  EXPECT_NEAR(got[0].second, 0.4, 1e-6);
  EXPECT_EQ(got[1].first, 1);
}

}  // namespace
}  // namespace bumblebee::engine
