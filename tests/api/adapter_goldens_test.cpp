// Adapter files of peft and mlx-lm applied at run time, through the public interface, against the float64 logits that
// both projects agree on (tools/goldens/adapters.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/mapped_file.h"
#include "bumblebee/bumblebee.h"
#include "tests/support/adapter_cases.h"
#include "tests/support/backends.h"
#include "tests/support/golden_file.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tolerance.h"

namespace bumblebee {
namespace {

using testing_support::all_cases;
using testing_support::golden_path;
using testing_support::GoldenFile;
using testing_support::names_of_cases;

Model base_of(const std::string& name, const std::string& device, Precision precision) {
  ModelOptions options;
  options.device = device;
  options.precision = precision;
  options.kv_type = KvType::f32;
  options.threads = 2;
  return load_model(local(golden_path(all_cases().at(name).get<std::string>())), options);
}

std::vector<float> logits(const Model& model, const GoldenFile& golden, const std::vector<WeightedAdapter>& adapters) {
  std::vector<float> all;
  model.logits(
      golden.at("tokens").ints(),
      [&](int, std::span<const float> row) { all.insert(all.end(), row.begin(), row.end()); }, adapters);
  return all;
}

Adapter adapter_of(const std::string& name) { return load_adapter(local(golden_path("adapters/" + name))); }

std::vector<std::string> device_names() {
  testing_support::register_replay_backend();
  return testing_support::with_cards({"ref", "cpu", "replay"});
}

class AdapterAtRunTime : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    const auto& [device, name] = GetParam();
    const std::string base = all_cases().at(name).get<std::string>();
    if (base.starts_with("gemma/") && testing_support::lacks(device, Operation::gelu))
      GTEST_SKIP() << "no Gemma on " << device;
    if (base.starts_with("mla/") && testing_support::lacks(device, Operation::lora_heads))
      GTEST_SKIP() << "no adapters of kv_b_proj on " << device;
    const bool experts = base.starts_with("experts/");
    if (experts && testing_support::lacks(device, Operation::lora_experts)) GTEST_SKIP() << "no experts on " << device;
  }
};
INSTANTIATE_TEST_SUITE_P(All, AdapterAtRunTime,
                         testing::Combine(testing::ValuesIn(device_names()), testing::ValuesIn(names_of_cases())),
                         [](const auto& p) { return std::get<0>(p.param) + "_" + std::get<1>(p.param); });

TEST_P(AdapterAtRunTime, LogitsMatchFloat64) {
  const auto& [device, name] = GetParam();
  const GoldenFile golden("adapters/" + name + "/golden.safetensors");
  const Model model = base_of(name, device, Precision::exact);
  const std::vector<double> want = golden.at("logits").doubles();
  const std::vector<float> got = logits(model, golden, {adapter_of(name)});
  ASSERT_EQ(got.size(), want.size());
  // As in tests/models/goldens_test.cpp: f32 angles, and at each of the operations before the logits (14 a layer, with
  // an adapter's two products after each of 7) the roundings of sums as long as the longest input.
  const int operations = model.info().layers * (14 + 2 * 7) + 3, longest = std::max(model.info().intermediate, 128);
  EXPECT_LE(testing_support::relative_to_rms(got, want),
            1e-5 + 6 * testing_support::kRoundF32 * std::sqrt(double(longest) * double(operations)));
}

/// What the adapter changes is large beside the tolerance, and gone without it.
TEST_P(AdapterAtRunTime, MattersAndLeavesTheBaseAlone) {
  const auto& [device, name] = GetParam();
  const GoldenFile golden("adapters/" + name + "/golden.safetensors");
  const Model model = base_of(name, device, Precision::fast);
  const std::vector<float> before = logits(model, golden, {});
  const std::vector<float> with = logits(model, golden, {adapter_of(name)});
  EXPECT_GT(testing_support::relative_to_rms(before, golden.at("logits").doubles()), 0.05);
  EXPECT_NE(with, before);
  EXPECT_EQ(logits(model, golden, {}), before);
  EXPECT_EQ(logits(model, golden, {{adapter_of(name), 0}}), before);
}

TEST(AdapterTwins, GiveTheSameBitsInBothFormats) {
  const GoldenFile golden("adapters/peft_lora/golden.safetensors");
  for (const char* device : {"ref", "cpu"}) {
    for (const Precision precision : {Precision::exact, Precision::fast}) {
      const Model model = base_of("peft_lora", device, precision);
      EXPECT_EQ(logits(model, golden, {adapter_of("peft_lora")}), logits(model, golden, {adapter_of("mlx_twin")}))
          << device;
    }
  }
}

}  // namespace
}  // namespace bumblebee
