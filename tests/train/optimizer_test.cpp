// Every optimizer against mlx's own updates (tools/goldens/training.py), and settings that mean nothing.
#include "train/optimizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "tests/support/backends.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"
#include "tests/train/optimizer_cases.h"

namespace bumblebee::train {
namespace {

using namespace testing_support;

const char* const kNames[] = {"lora_a", "lora_b", "m"};

std::vector<float> transposed(const std::vector<float>& from, int rows, int cols) {
  std::vector<float> to(from.size());
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) to[size_t(c * rows + r)] = from[size_t(r * cols + c)];
  }
  return to;
}

/// Of the golden's three, as mlx stores them or, `transposed`, as they are stored here.
class Parameters {
 public:
  Parameters(Backend& device, const std::string& prefix, bool transposed)
      : backend(device), ops(*device.stream().grad_ops()), transposed_(transposed) {
    for (const char* name : kNames) {
      const GoldenTensor& tensor = golden.at(prefix + name);
      const bool transpose = transposed && tensor.rows() > 1;
      list.push_back(make_parameter(device, name, of(tensor), transpose ? tensor.cols() : tensor.rows(),
                                    transpose ? tensor.rows() : tensor.cols()));
      list.back().transposed = transpose;
    }
  }

  void set_gradients(const std::string& prefix) {
    std::vector<std::vector<float>> gradients;
    for (const char* name : kNames) gradients.push_back(of(golden.at(prefix + name)));
    write_values(ops, gradients, gradients_of(list));
  }

  std::vector<std::vector<float>> values() const { return read_values(ops, values_of(list)); }
  std::vector<std::vector<float>> gradients() const { return read_values(ops, gradients_of(list)); }
  /// As mlx stores them.
  std::vector<std::vector<float>> values_as_mlx() const {
    std::vector<std::vector<float>> all = values();
    for (size_t i = 0; i < all.size(); ++i) {
      if (list[i].transposed) all[i] = transposed(all[i], list[i].rows(), list[i].cols());
    }
    return all;
  }

  const GoldenFile golden{"training/optimizers.safetensors"};
  Backend& backend;
  GradOps& ops;
  std::vector<Parameter> list;

 private:
  std::vector<float> of(const GoldenTensor& tensor) const {
    const std::vector<float> values = tensor.floats();
    return transposed_ && tensor.rows() > 1 ? transposed(values, tensor.rows(), tensor.cols()) : values;
  }
  bool transposed_;
};

std::vector<std::unique_ptr<Backend>> devices() {
  std::vector<std::unique_ptr<Backend>> list;
  list.push_back(create_reference());
  for (const Target& target : training(targets())) {
    if (!target.options.fast) list.push_back(target.create());
  }
  return list;
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
  const Json cases = optimizer_cases();
  const Json& one = cases.at(GetParam());
  const float rate = one.at("learning_rate").get<float>();
  for (const auto& backend : devices()) {
    for (const bool transposed : {false, true}) {
      const auto optimizer = make_optimizer(optimizer_options(one), *backend);
      Parameters parameters(*backend, "first.", transposed);
      for (int step = 0; step < 6; ++step) {
        parameters.set_gradients(cat("gradient.", step, "."));
        optimizer->update(parameters.list, rate);
        if (step != 0 && step != 5) continue;
        const std::vector<std::vector<float>> got = parameters.values_as_mlx();
        for (size_t p = 0; p < got.size(); ++p) {
          const std::vector<double> want = parameters.golden.at(cat(GetParam(), ".", step, ".", kNames[p])).doubles(),
                                    first = parameters.golden.at(cat("first.", kNames[p])).doubles();
          double moved = 0;
          for (size_t i = 0; i < want.size(); ++i) moved = std::max(moved, std::abs(want[i] - first[i]));
          EXPECT_GT(moved, 0);
          // An update is some ten f32 operations on top of the value, and Muon's five iterations some two hundred.
          const double factor = GetParam().starts_with("muon") ? 400 : 16;
          for (size_t i = 0; i < want.size(); ++i) {
            EXPECT_NEAR(double(got[p][i]), want[i], (step + 1) * kRoundF32 * (std::abs(want[i]) + factor * moved))
                << kNames[p] << "[" << i << "] after " << step + 1;
          }
        }
      }
    }
  }
}

/// Every operator of an update rounds to f32, also on the reference: a run may go on elsewhere.
TEST_P(Updates, AreTheSameBitsOnEveryDevice) {
  const Json cases = optimizer_cases();
  const Json& one = cases.at(GetParam());
  std::vector<std::vector<float>> first;
  for (const auto& backend : devices()) {
    const auto optimizer = make_optimizer(optimizer_options(one), *backend);
    Parameters parameters(*backend, "first.", true);
    for (int step = 0; step < 3; ++step) {
      parameters.set_gradients(cat("gradient.", step, "."));
      clip_gradients(parameters.ops, parameters.list, 0.75f);
      optimizer->update(parameters.list, one.at("learning_rate").get<float>());
    }
    if (first.empty()) first = parameters.values();
    EXPECT_EQ(parameters.values(), first);
  }
}

TEST(Optimizer, ClipsAsMlx) {
  for (const auto& backend : devices()) {
    Parameters parameters(*backend, "gradient.0.", false);
    parameters.set_gradients("gradient.0.");
    const double norm = clip_gradients(parameters.ops, parameters.list, 0.75f);
    const double want = parameters.golden.at("clipped_norm").doubles().front();
    EXPECT_NEAR(norm, want, 1e-6 * want);
    const std::vector<std::vector<float>> before = parameters.gradients();
    for (size_t p = 0; p < before.size(); ++p) {
      const std::vector<double> clipped = parameters.golden.at(cat("clipped.", kNames[p])).doubles();
      for (size_t i = 0; i < clipped.size(); ++i)
        EXPECT_NEAR(double(before[p][i]), clipped[i], 1e-6 * std::abs(clipped[i]));
    }
    clip_gradients(parameters.ops, parameters.list, 0);
    clip_gradients(parameters.ops, parameters.list, 1e6f);
    EXPECT_EQ(parameters.gradients(), before);
  }
}

TEST(Optimizer, LoraPlusMultipliesTheRate) {
  for (const auto& backend : devices()) {
    const float one = 1, half = 0.5f;
    std::vector<Parameter> parameters;
    for (const char* name : {"a", "b"}) {
      parameters.push_back(make_parameter(*backend, name, {&one, 1}, 1, 1));
      backend->stream().grad_ops()->write_all({&half, 1}, {&parameters.back().gradient, 1});
    }
    parameters[1].rate_ratio = 16;
    make_optimizer({.kind = OptimizerKind::sgd}, *backend)->update(parameters, 0.125f);
    const auto values = read_values(*backend->stream().grad_ops(), values_of(parameters));
    EXPECT_EQ(values[0][0], 1 - 0.0625f);
    EXPECT_EQ(values[1][0], 1 - 1.0f);
  }
}

std::vector<Optimizer::StoredState> stored(GradOps& ops, const Optimizer& optimizer) {
  std::vector<Optimizer::StoredState> all;
  for (const Optimizer::State& state : optimizer.states()) {
    all.emplace_back();
    for (const auto& [name, tensor] : state) all.back()[name] = read_values(ops, {&tensor, 1}).front();
  }
  return all;
}

TEST(Optimizer, GoesOnFromItsState) {
  const Json cases = optimizer_cases();
  for (const auto& backend : devices()) {
    for (const std::string& name : case_names()) {
      const OptimizerOptions options = optimizer_options(cases.at(name));
      const auto whole = make_optimizer(options, *backend);
      Parameters parameters(*backend, "first.", false);
      const auto step = [&](Optimizer& optimizer, int i) {
        parameters.set_gradients(cat("gradient.", i, "."));
        optimizer.update(parameters.list, 1e-2f);
      };
      step(*whole, 0);
      step(*whole, 1);
      const std::vector<std::vector<float>> middle = parameters.values();
      const auto resumed = make_optimizer(options, *backend);
      resumed->restore(whole->step(), stored(parameters.ops, *whole), parameters.list, "test");
      step(*whole, 2);
      const std::vector<std::vector<float>> want = parameters.values();
      EXPECT_NE(want, middle) << name;
      write_values(parameters.ops, middle, values_of(parameters.list));
      step(*resumed, 2);
      EXPECT_EQ(parameters.values(), want) << name;
    }
  }
}

TEST(Optimizer, RefusesAStateOfAnother) {
  const auto backend = create_reference();
  const std::vector<float> values = {1, 2, 3};
  std::vector<Parameter> parameters = {make_parameter(*backend, "a", std::span(values).first(2), 1, 2)};
  const auto adam = make_optimizer({}, *backend);
  adam->update(parameters, 0.1f);
  const std::vector<Optimizer::StoredState> states = stored(*backend->stream().grad_ops(), *adam);
  const auto sgd = make_optimizer({.kind = OptimizerKind::sgd, .momentum = 0.5f}, *backend);
  EXPECT_THROW(sgd->restore(1, states, parameters, "test"), Error);
  EXPECT_NO_THROW(make_optimizer({}, *backend)->restore(1, states, parameters, "test"));
  parameters[0] = make_parameter(*backend, "a", values, 1, 3);
  EXPECT_THROW(make_optimizer({}, *backend)->restore(1, states, parameters, "test"), Error);
  EXPECT_THROW(make_optimizer({}, *backend)->restore(1, {}, parameters, "test"), Error);
}

TEST(Optimizer, RefusesSettingsByName) {
  const auto backend = create_reference();
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
      make_optimizer(options, *backend);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::bad_request);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace bumblebee::train
