// Schedules against mlx-lm's own (tools/goldens/training.py), and what is refused.
#include "train/schedule.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tests/train/optimizer_cases.h"

namespace bumblebee::train {
namespace {

TEST(Schedule, RatesAreMlxs) {
  const Json cases = training_json("schedules.json");
  EXPECT_GE(cases.size(), 6u);
  for (const auto& [name, one] : cases.items()) {
    const Json& config = one.at("config");
    const Schedule schedule({.name = config.at("name").get<std::string>(),
                             .arguments = config.at("arguments").get<std::vector<double>>(),
                             .warmup = config.value("warmup", 0),
                             .warmup_init = config.value("warmup_init", 0.0)},
                            1);
    const std::vector<double> rates = one.at("rates").get<std::vector<double>>();
    const double most = *std::max_element(rates.begin(), rates.end());
    // A handful of f32 operations; powers and cosines of two libraries differ in their last bits.
    for (size_t step = 0; step < rates.size(); ++step)
      EXPECT_NEAR(double(schedule.rate(step)), rates[step], 4e-7 * rates[step] + 2e-7 * most) << name << " at " << step;
  }
}

TEST(Schedule, ConstantWithoutAName) {
  const Schedule schedule({}, 1e-5);
  EXPECT_EQ(schedule.rate(0), 1e-5f);
  EXPECT_EQ(schedule.rate(1000000), 1e-5f);
}

TEST(Schedule, RefusesByName) {
  const std::pair<ScheduleOptions, const char*> wrong[] = {
      {{.name = "cosine", .arguments = {1, 2}}, "cosine_decay"},
      {{.name = "cosine_decay", .arguments = {1}}, "arguments"},
      {{.name = "step_decay", .arguments = {1, 0.5}}, "arguments"},
      {{.name = "linear_schedule", .arguments = {1, 0.5, 0}}, "steps"},
      {{.name = "cosine_decay", .arguments = {1, 2.5}}, "whole"},
      {{.name = "exponential_decay", .arguments = {1, NAN}}, "finite"},
      {{.name = "cosine_decay", .arguments = {1, 2}, .warmup = -1}, "warmup"},
      {{.warmup = 3}, "name"}};
  for (const auto& [options, word] : wrong) {
    try {
      const Schedule schedule(options, 1);
      ADD_FAILURE() << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(Schedule({}, -1), Error);
  EXPECT_THROW(Schedule({}, NAN), Error);
}

}  // namespace
}  // namespace bumblebee::train
