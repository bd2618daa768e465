// Tiny models of every family and every quantized width against float64, operation by operation:
// tools/goldens/models.py, widths.py, experts.py, delta.py and others ran transformers wholly in float64. A failure
// names the first operation that diverged.
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
  for (const char* folder : {"dense", "widths", "experts", "gemma", "delta", "floats", "gpt_oss", "lfm2", "mla"})
    for (const std::string& name : cases_in(folder)) names.push_back(name);
  return names;
}

/// Relative to the root mean square of a tensor. The reference computes in f64; only inverse frequencies and angles are
/// f32, as models are trained with, where the goldens have f64: at 12 positions an angle is off by at most 11·4·2^-24
/// = 2.6e-6, and so are q and k after rotation, times a peak of about three deviations. The f32 targets add, at each
/// operation before, the roundings of sums as long as the longest input: partial sums have the size of the result, so
/// 6·sqrt(n)·2^-24, and independent errors add up by their squares.
///
/// A norm of heads makes a head's error as large as the head is smaller than the whole: `smallness`.
double allowed(const Target& target, int operations, int longest, double smallness) {
  constexpr double kRotation = 1e-5;
  if (is_reference(target)) return kRotation;
  return kRotation + smallness * 6 * kRoundF32 * std::sqrt(double(longest) * double(operations + 1));
}

/// How much smaller the smallest head of `width` features is than all of them, both by their root mean squares.
double smallness_of(std::span<const float> values, int width, double eps) {
  double all = 0, smallest = INFINITY;
  for (size_t first = 0; first < values.size(); first += size_t(width)) {
    double squares = 0;
    for (const float v : values.subspan(first, size_t(width))) squares += double(v) * double(v);
    smallest = std::min(smallest, squares / width);
    all += squares;
  }
  return std::max(1.0, std::sqrt(all / double(values.size()) / (smallest + eps)));
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
  if (name.starts_with("floats/") && !has_formats(target.backend, {Format::mxfp4(), Format::nvfp4()}))
    GTEST_SKIP() << "no float codes on " << target.backend;
  const auto checkpoint = Checkpoint::open(golden_path(name));
  const ModelSpec spec = read_spec(checkpoint->config().text(), name);
  if (const std::string operation = lacked(target.backend, spec, *checkpoint); !operation.empty())
    GTEST_SKIP() << "no " << operation << " on " << target.backend;
  // They keep a few tensors only.
  const bool partial = name.starts_with("widths/") || name.starts_with("dense/") || name.starts_with("floats/") ||
                       name.starts_with("lfm2/") || name.ends_with("_long") || name.starts_with("mla/");
  const GoldenFile golden(name + "/golden.safetensors");
  Runner runner(target.create(), spec, *checkpoint, {});
  const nn::ModelDims& d = runner.model().dims();
  const int longest = std::max({d.d_model, d.d_ff, d.heads * d.head_dim});

  int operations = 0;
  double smallness = 1;
  size_t compared = 0;
  std::string first;
  runner.tapped({0, golden.at("tokens").ints()}, [&](const std::string& what, const std::vector<float>& values) {
    if (what == "lm_head") return;  // shown once more, as "logits"
    const bool known = golden.has(what);
    EXPECT_TRUE(known || partial) << "no golden for " << what;
    if (known) {
      ++compared;
      const double error = relative_to_rms(values, golden.at(what).doubles()),
                   limit = allowed(target, operations, longest, smallness);
      if (!(error <= limit) && first.empty())
        first = cat(what, ": error ", error, " of the root mean square, allowed ", limit);
    }
    ++operations;
    if (what.ends_with(".delta"))
      smallness = std::max(smallness, smallness_of(values, d.kv_groups.back().state.value_dim, 1e-6));
  });
  EXPECT_EQ(first, "") << "the first operation that diverged";
  EXPECT_EQ(compared + 1, golden.tensors().size()) << "every golden but the tokens was compared";
}

TEST(Goldens, AreAllThere) {
  EXPECT_GE(cases_in("models").size(), 13u);
  EXPECT_GE(cases_in("widths").size(), 7u);
  EXPECT_GE(cases_in("dense").size(), 7u);
  EXPECT_GE(cases_in("lfm2").size(), 3u);
  EXPECT_GE(cases_in("experts").size(), 10u);
  EXPECT_GE(cases_in("mla").size(), 7u);
  EXPECT_GE(cases_in("gemma").size(), 4u);
  EXPECT_GE(cases_in("delta").size(), 6u);
  EXPECT_GE(cases_in("floats").size(), 12u);
  EXPECT_GE(cases_in("gpt_oss").size(), 4u);
}

/// transformers went through a prompt of three chunks at once. One that is cut, and then goes on token by token, says
/// the same.
TEST(Goldens, StatesCarryALongPromptOn) {
  for (const std::string name : {"delta/qwen3_5_long", "lfm2/lfm2_long"}) {
    SCOPED_TRACE(name);
    const GoldenFile golden(name + "/golden.safetensors");
    const std::vector<int32_t> tokens = golden.at("tokens").ints();
    const std::vector<double> want = golden.at("logits").doubles();
    ASSERT_GT(tokens.size(), 2u * 64);
    for (const size_t cut : {size_t{1}, size_t{64}, size_t{97}}) {
      const auto checkpoint = Checkpoint::open(golden_path(name));
      Runner runner(create_reference(), read_spec(checkpoint->config().text(), name), *checkpoint, {});
      std::vector<float> got = runner.step({{0, {tokens.begin(), tokens.begin() + int64_t(cut)}}}).front();
      for (size_t i = cut; i < tokens.size(); ++i) {
        const std::vector<float> next = runner.step({{0, {tokens[i]}}}).front();
        got.insert(got.end(), next.begin(), next.end());
      }
      EXPECT_LT(relative_to_rms(got, want), 1e-5) << "cut after " << cut;
    }
  }
}

/// What is longer than the original context rotates otherwise from its first token on.
TEST(Goldens, PhisLongFactorsMatter) {
  const std::string name = "dense/phi4_beyond";
  const GoldenFile golden(name + "/golden.safetensors");
  const std::vector<double> want = golden.at("logits").doubles();
  const auto checkpoint = Checkpoint::open(golden_path(name));
  Json config = checkpoint->config().text();
  config["original_max_position_embeddings"] = 80;  // as long as the text
  config["rope_scaling"]["attention_factor"] = std::sqrt(1 + std::log(512.0 / 72) / std::log(72.0));
  Runner runner(create_reference(), read_spec(config, name), *checkpoint, {});
  const std::vector<float> got = runner.step({{0, golden.at("tokens").ints()}}).front();
  const size_t row = size_t(runner.model().dims().vocab);
  EXPECT_LT(relative_to_rms(std::span(got).first(row), std::span(want).first(row)), 1e-5) << "a token that sees itself";
  EXPECT_GT(relative_to_rms(std::span(got).subspan(row), std::span(want).subspan(row)), 1e-2);
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
