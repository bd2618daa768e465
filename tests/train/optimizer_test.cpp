// Every optimizer against mlx's own updates (tools/goldens/training.py), and settings that mean nothing.
#include "train/optimizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"
#include "tests/train/optimizer_cases.h"

namespace bumblebee::train {
namespace {

using namespace testing_support;

std::vector<Parameter> parameters_of(const GoldenFile& golden, const std::string& prefix) {
  std::vector<Parameter> list;
  for (const char* name : {"lora_a", "lora_b", "m"}) {
    const GoldenTensor& tensor = golden.at(prefix + name);
    Parameter p{.name = name, .rows = tensor.rows(), .cols = tensor.cols(), .values = tensor.floats()};
    p.gradient.resize(p.values.size());
    list.push_back(std::move(p));
  }
  return list;
}

/// The same numbers as they are stored here: factors turned.
void turn(Parameter& p) {
  if (!p.is_matrix()) return;
  const auto transposed = [&](const std::vector<float>& from) {
    std::vector<float> to(from.size());
    for (int r = 0; r < p.rows; ++r) {
      for (int c = 0; c < p.cols; ++c) to[size_t(c * p.rows + r)] = from[size_t(r * p.cols + c)];
    }
    return to;
  };
  p.values = transposed(p.values);
  p.gradient = transposed(p.gradient);
  std::swap(p.rows, p.cols);
  p.turned = !p.turned;
}

class Updates : public testing::TestWithParam<std::string> {};

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  const Json cases = optimizer_cases();
  for (const auto& [name, value] : cases.items()) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, Updates, testing::ValuesIn(case_names()), [](const auto& p) { return p.param; });

TEST_P(Updates, AreMlxs) {
  const GoldenFile golden("training/optimizers.safetensors");
  const Json cases = optimizer_cases();
  const Json& one = cases.at(GetParam());
  const float rate = one.at("learning_rate").get<float>();
  for (const bool turned : {false, true}) {
    const auto optimizer = make_optimizer(optimizer_options(one));
    std::vector<Parameter> parameters = parameters_of(golden, "first.");
    for (int step = 0; step < 6; ++step) {
      const std::vector<Parameter> gradients = parameters_of(golden, cat("gradient.", step, "."));
      for (size_t i = 0; i < parameters.size(); ++i) {
        parameters[i].gradient = gradients[i].values;
        if (turned) turn(parameters[i]);
      }

      optimizer->update(parameters, rate);
      for (Parameter& p : parameters) {
        if (turned) turn(p);
      }
      if (step != 0 && step != 5) continue;
      for (const Parameter& p : parameters) {
        const std::vector<double> want = golden.at(cat(GetParam(), ".", step, ".", p.name)).doubles(),
                                  first = golden.at("first." + p.name).doubles();
        double moved = 0;
        for (size_t i = 0; i < want.size(); ++i) moved = std::max(moved, std::abs(want[i] - first[i]));
        EXPECT_GT(moved, 0);
        // An update is some ten f32 operations on top of the value, and Muon's five iterations some two hundred.
        const double factor = GetParam().starts_with("muon") ? 400 : 16;
        for (size_t i = 0; i < want.size(); ++i) {
          EXPECT_NEAR(double(p.values[i]), want[i], (step + 1) * kRoundF32 * (std::abs(want[i]) + factor * moved))
              << p.name << "[" << i << "] after " << step + 1;
        }
      }
    }
  }
}

TEST(Optimizer, ClipsAsMlx) {
  const GoldenFile golden("training/optimizers.safetensors");
  std::vector<Parameter> parameters = parameters_of(golden, "gradient.0.");
  for (Parameter& p : parameters) p.gradient = p.values;
  const double norm = clip_gradients(parameters, 0.75f);
  const double want = golden.at("clipped_norm").doubles().front();
  EXPECT_NEAR(norm, want, 1e-6 * want);
  for (const Parameter& p : parameters) {
    const std::vector<double> clipped = golden.at("clipped." + p.name).doubles();
    for (size_t i = 0; i < clipped.size(); ++i)
      EXPECT_NEAR(double(p.gradient[i]), clipped[i], 1e-6 * std::abs(clipped[i]));
  }
  const std::vector<Parameter> before = parameters;
  clip_gradients(parameters, 0);
  clip_gradients(parameters, 1e6f);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(parameters[i].gradient, before[i].gradient);
}

TEST(Optimizer, LoraPlusMultipliesTheRate) {
  Parameter slow{.name = "a", .rows = 1, .cols = 1, .values = {1}, .gradient = {0.5f}}, fast = slow;
  fast.rate_ratio = 16;
  std::vector<Parameter> parameters = {slow, fast};
  make_optimizer({.kind = OptimizerKind::sgd})->update(parameters, 0.125f);
  EXPECT_EQ(parameters[0].values[0], 1 - 0.0625f);
  EXPECT_EQ(parameters[1].values[0], 1 - 1.0f);
}

TEST(Optimizer, GoesOnFromItsState) {
  const GoldenFile golden("training/optimizers.safetensors");
  const Json cases = optimizer_cases();
  for (const std::string& name : case_names()) {
    const OptimizerOptions options = optimizer_options(cases.at(name));
    const auto whole = make_optimizer(options);
    std::vector<Parameter> parameters = parameters_of(golden, "first.");
    const auto step = [&](Optimizer& optimizer, int i) {
      const std::vector<Parameter> gradients = parameters_of(golden, cat("gradient.", i, "."));
      for (size_t p = 0; p < parameters.size(); ++p) parameters[p].gradient = gradients[p].values;
      optimizer.update(parameters, 1e-2f);
    };
    step(*whole, 0);
    step(*whole, 1);
    const std::vector<Parameter> middle = parameters;
    const auto resumed = make_optimizer(options);
    resumed->restore(whole->step(), whole->states(), parameters, "test");
    step(*whole, 2);
    const std::vector<Parameter> want = parameters;
    parameters = middle;
    step(*resumed, 2);
    for (size_t p = 0; p < want.size(); ++p) EXPECT_EQ(parameters[p].values, want[p].values) << name;
  }
}

TEST(Optimizer, RefusesAStateOfAnother) {
  std::vector<Parameter> parameters = {{.name = "a", .rows = 1, .cols = 2, .values = {1, 2}, .gradient = {1, 1}}};
  const auto adam = make_optimizer({});
  adam->update(parameters, 0.1f);
  const auto sgd = make_optimizer({.kind = OptimizerKind::sgd, .momentum = 0.5f});
  EXPECT_THROW(sgd->restore(1, adam->states(), parameters, "test"), Error);
  parameters[0].values.push_back(3);
  EXPECT_THROW(make_optimizer({})->restore(1, adam->states(), parameters, "test"), Error);
  EXPECT_THROW(make_optimizer({})->restore(1, {}, parameters, "test"), Error);
}

TEST(Optimizer, RefusesSettingsByName) {
  const std::pair<OptimizerOptions, const char*> wrong[] = {
      {{.kind = OptimizerKind::adam, .momentum = 0.9f}, "momentum"},
      {{.kind = OptimizerKind::adam, .weight_decay = 0.1f}, "weight_decay"},
      {{.kind = OptimizerKind::sgd, .ns_steps = 3}, "ns_steps"},
      {{.kind = OptimizerKind::muon, .betas = std::pair(0.9f, 0.9f)}, "betas"},
      {{.kind = OptimizerKind::adamw, .beta_1 = 0.9f}, "beta_1"},
      {{.kind = OptimizerKind::sgd, .nesterov = true}, "nesterov"},
      {{.kind = OptimizerKind::adam, .betas = std::pair(0.9f, 1.0f)}, "betas"},
      {{.kind = OptimizerKind::adam, .eps = -1.0f}, "eps"}};
  for (const auto& [options, name] : wrong) {
    try {
      make_optimizer(options);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace bumblebee::train
