// Shared by the engine's tests: tiny models on each device of this build, and plain ways to get the same answers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "api/model_state.h"
#include "bumblebee/device.h"
#include "bumblebee/model.h"
#include "engine/engine.h"
#include "tests/engine/answer.h"
#include "tests/support/backends.h"
#include "tests/support/replay_backend.h"

namespace bumblebee::engine {

inline std::string golden_model(const std::string& name) { return BB_TEST_DATA "/goldens/models/" + name; }

inline Model load(const std::string& directory, const std::string& device) {
  ModelOptions options;
  options.device = device;
  options.threads = 2;
  return load_model(local(directory), options);
}

/// For what compares steps of different sizes: on cards fast precision multiplies in one way up to 32 rows and in
/// another beyond (docs/internals/numerics.md), exact in one.
inline Model load_alike(const std::string& directory, const std::string& device) {
  ModelOptions options;
  options.device = device;
  options.threads = 2;
  if (device.starts_with("cuda")) options.precision = Precision::exact;
  return load_model(local(directory), options);
}

inline std::vector<std::string> device_names() {
  testing_support::register_replay_backend();
  return testing_support::with_cards({"cpu", "ref", "replay"});
}

/// An engine on a model.
class EngineOn : public Engine {
 public:
  EngineOn(const std::shared_ptr<api::ModelState>& model, EngineOptions options)
      : Engine(model->make_executor({.sequences = options.batch_size,
                                     .sequence_length = options.sequence_length,
                                     .spare_pages = kSparePages}),
               with_sizes(options, *model)) {}

 private:
  static EngineOptions with_sizes(EngineOptions options, const api::ModelState& model) {
    options.vocab = model.info.vocab;
    options.d_model = model.info.hidden;
    options.stretch_beyond = model.model().dims().stretch_beyond;
    return options;
  }
};

/// Every device of this build runs these tests, and the one that replays.
class OnDevice : public ::testing::TestWithParam<std::string> {};

/// A repeatable prompt of ordinary tokens.
inline std::vector<int32_t> some_tokens(int count, int vocab, unsigned salt) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i)
    tokens.push_back(
        int32_t((unsigned(i) * 37u + salt * 101u + unsigned(i) * unsigned(i) * 11u) % unsigned(vocab - 5)) + 5);
  return tokens;
}

inline GenerationConfig greedy(int max_new) {
  GenerationConfig config;
  config.max_new_tokens = max_new;
  config.logprobs = true;
  return config;
}

inline Request work_of(std::vector<int32_t> prompt, GenerationConfig config, uint64_t seed = 0) {
  Request work;
  work.prompt = std::move(prompt);
  work.config = std::move(config);
  work.seed = seed;
  return work;
}

inline std::vector<std::vector<float>> all_logits(const Model& model, const std::vector<int32_t>& tokens) {
  std::vector<std::vector<float>> rows;
  model.logits(tokens, [&](int, std::span<const float> row) { rows.emplace_back(row.begin(), row.end()); });
  return rows;
}

inline double log_probability(const std::vector<float>& row, int32_t token) {
  double sum = 0;
  for (float v : row) sum += std::exp(double(v));
  return double(row[size_t(token)]) - std::log(sum);
}

/// f32 sums in another order, over a handful of layers of values near one.
constexpr double kTolerance = 2e-4;

}  // namespace bumblebee::engine
