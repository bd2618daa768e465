// Tiny models of every family and every quantized width against float64, operation by operation:
// tools/goldens/models.py and widths.py ran transformers wholly in float64. A failure names the first operation that
// diverged.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "io/checkpoint.h"
#include "tests/models/running.h"
#include "tests/support/golden_file.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tolerance.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;

/// Folders below tests/data/goldens with a golden.safetensors.
std::vector<std::string> cases_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_path(folder))) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors"))
      names.push_back(folder + "/" + entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> all_cases() {
  std::vector<std::string> names = cases_in("models");
  for (const char* folder : {"widths", "experts", "mla"})
    for (const std::string& name : cases_in(folder)) names.push_back(name);
  return names;
}

/// Relative to the root mean square of a tensor. The reference computes in f64; only inverse frequencies and angles are
/// f32, as models are trained with, where the goldens have f64: at 12 positions an angle is off by at most 11·4·2^-24
/// = 2.6e-6, and so are q and k after rotation, times a peak of about three deviations. The f32 targets add, at each
/// operation before, the roundings of sums as long as the longest input: partial sums have the size of the result, so
/// 6·sqrt(n)·2^-24, and independent errors add up by their squares.
double allowed(const Target& target, int operations, int longest) {
  constexpr double kRotation = 1e-5;
  if (is_reference(target)) return kRotation;
  return kRotation + 6 * kRoundF32 * std::sqrt(double(longest) * double(operations + 1));
}

class Golden : public testing::TestWithParam<std::tuple<Target, std::string>> {};
INSTANTIATE_TEST_SUITE_P(All, Golden,
                         testing::Combine(testing::ValuesIn(exact_targets()), testing::ValuesIn(all_cases())),
                         [](const auto& p) {
                           const std::string& name = std::get<1>(p.param);
                           return std::get<0>(p.param).name() + "_" + name.substr(name.find('/') + 1);
                         });

TEST_P(Golden, EveryIntermediateMatches) {
  const auto& [target, name] = GetParam();
  const bool experts = name.starts_with("experts/"), latents = name.starts_with("mla/");
  if (experts && lacks(target.backend, Operation::matmul_experts)) GTEST_SKIP() << "no experts on " << target.backend;
  if (latents && lacks(target.backend, Operation::latent_keys)) GTEST_SKIP() << "no latents on " << target.backend;
  const GoldenFile golden(name + "/golden.safetensors");
  const auto checkpoint = Checkpoint::open(golden_path(name));
  Runner runner(target.create(), read_spec(checkpoint->config().text(), name), *checkpoint, {});
  const nn::ModelDims& d = runner.model().dims();
  const int longest = std::max({d.d_model, d.d_ff, d.heads * d.head_dim});

  int operations = 0;
  size_t compared = 0;
  std::string first;
  runner.tapped({0, golden.at("tokens").ints()}, [&](const std::string& what, const std::vector<float>& values) {
    if (what == "lm_head") return;  // shown once more, as "logits"
    const bool known = golden.has(what);
    EXPECT_TRUE(known || name.starts_with("widths/") || latents) << "no golden for " << what;
    if (known) {
      ++compared;
      const double error = relative_to_rms(values, golden.at(what).doubles()),
                   limit = allowed(target, operations, longest);
      if (!(error <= limit) && first.empty())
        first = cat(what, ": error ", error, " of the root mean square, allowed ", limit);
    }
    ++operations;
  });
  EXPECT_EQ(first, "") << "the first operation that diverged";
  EXPECT_EQ(compared + 1, golden.tensors().size()) << "every golden but the tokens was compared";
}

TEST(Goldens, AreAllThere) {
  EXPECT_GE(cases_in("models").size(), 13u);
  EXPECT_GE(cases_in("widths").size(), 7u);
  EXPECT_GE(cases_in("experts").size(), 10u);
  EXPECT_GE(cases_in("mla").size(), 7u);
}

/// The window is what makes this case: without it the rows past the window must be wrong, or the golden proves nothing.
TEST(Goldens, MistralsWindowMatters) {
  const GoldenFile golden("models/mistral/golden.safetensors");
  const std::vector<double> want = golden.at("logits").doubles();
  const auto checkpoint = Checkpoint::open(golden_path("models/mistral"));
  Json config = checkpoint->config().text();
  const int window = config.at("sliding_window").get<int>();
  config["sliding_window"] = nullptr;
  Runner runner(create_reference(), read_spec(config, "mistral"), *checkpoint, {});
  const std::vector<float> got = runner.step({{0, golden.at("tokens").ints()}}).front();
  const size_t vocab = size_t(runner.model().dims().vocab), inside = size_t(window) * vocab;
  EXPECT_LT(relative_to_rms(std::span(got).first(inside), std::span(want).first(inside)), 1e-5);
  EXPECT_GT(relative_to_rms(std::span(got).subspan(inside), std::span(want).subspan(inside)), 1e-2);
}

}  // namespace
}  // namespace bumblebee::models
