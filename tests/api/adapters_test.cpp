// Adapters through the public library: per request, as a serving's default, replaced and unloaded while requests run.
#include "bumblebee/adapter.h"

#include <atomic>
#include <thread>

#include "api/adapter_state.h"
#include "base/error.h"
#include "bumblebee/benchmark.h"
#include "bumblebee/generation.h"
#include "tests/engine/engine_test.h"

namespace bumblebee::engine {
namespace {

const Repository kTiny = local(BB_TEST_DATA "/apps/tiny");

/// Large enough to change what the tiny model says.
constexpr float kLoud = 60;

class AdaptersTest : public ::testing::Test {
 protected:
  AdaptersTest() {
    ModelOptions options;
    options.threads = 1;
    model_.emplace(load_model(kTiny, options));
    for (uint64_t seed = 1; seed <= 4; ++seed) adapters_.push_back(bumblebee::random_adapter(*model_, 4, seed));
  }

  text::Generation serving(const std::vector<WeightedAdapter>& adapters = {}, int batch = 4) const {
    text::GenerationOptions options;
    options.limits = {.batch_size = batch, .sequence_length = 100};
    options.adapters = adapters;
    return text::generation(*model_, load_tokenizer(kTiny), config(), options);
  }

  static GenerationConfig config() {
    GenerationConfig config;
    config.max_new_tokens = 14;
    config.logprobs = true;
    return config;
  }

  static text::Input input(std::vector<WeightedAdapter> adapters) {
    text::Input input;
    input.tokens = {72, 101, 108, 108, 111};
    input.adapters = std::move(adapters);
    return input;
  }
  static text::Input base_input() {
    text::Input input = AdaptersTest::input({});
    input.without_adapters = true;
    return input;
  }

  std::vector<WeightedAdapter> one(size_t i, float weight = kLoud) const { return {{adapters_[i], weight}}; }

  std::optional<Model> model_;
  std::vector<Adapter> adapters_;
};

void expect_same(const text::Result& got, const text::Result& want) {
  EXPECT_EQ(got.tokens, want.tokens);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (size_t i = 0; i < got.logprobs.size(); ++i) EXPECT_EQ(got.logprobs[i].logprob, want.logprobs[i].logprob) << i;
}

TEST_F(AdaptersTest, InfoSaysWhatItIs) {
  const AdapterInfo& info = adapters_[0].info();
  EXPECT_EQ(info.name, "random rank 4 seed 1");
  EXPECT_EQ(info.kind, "lora");
  EXPECT_EQ(info.rank, 4);
  EXPECT_EQ(info.scale, 1);
  EXPECT_EQ(info.modules.size(), 14u);
  EXPECT_EQ(info.modules[0].name, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(info.id.size(), 32u);
  EXPECT_NE(info.id, adapters_[1].info().id);
  uint64_t values = 0;
  for (const auto& module : model_->state()->model().target_modules()) {
    if (module.kind == nn::TargetModule::Kind::linear && module.name != "lm_head")
      values += 4 * uint64_t(module.in + module.out);
  }
  EXPECT_EQ(info.bytes, 4 * values);
}

TEST_F(AdaptersTest, GenerationEqualsLogitsWithTheSameAdapters) {
  const std::vector<WeightedAdapter> composed = {{adapters_[0], kLoud}, {adapters_[2], -kLoud / 2}};
  const text::Result result = serving().run(input(composed));
  const text::Result base = serving().run(input({}));
  EXPECT_NE(result.tokens, base.tokens);
  std::vector<int32_t> tokens = input({}).tokens;
  tokens.insert(tokens.end(), result.tokens.begin(), result.tokens.end());
  std::vector<std::vector<float>> rows;
  model_->logits(
      tokens, [&](int, std::span<const float> row) { rows.emplace_back(row.begin(), row.end()); }, composed);
  for (size_t i = 0; i < result.tokens.size(); ++i)
    EXPECT_NEAR(result.logprobs[i].logprob, log_probability(rows[4 + i], result.tokens[i]), 1e-9) << i;
}

TEST_F(AdaptersTest, TheServingsAdaptersAreADefaultAndTheBaseCanBeAskedFor) {
  const text::Generation plain = serving(), adapted = serving(one(0));
  const text::Result base = plain.run(input({})), first = plain.run(input(one(0))), second = plain.run(input(one(1)));
  EXPECT_NE(base.tokens, first.tokens);
  EXPECT_NE(second.tokens, first.tokens);
  expect_same(adapted.run(input({})), first);
  expect_same(adapted.run(base_input()), base);
  text::Input both = input(one(1));
  both.without_adapters = true;
  EXPECT_THROW(adapted.run(both), Error);
  expect_same(adapted.run(input(one(1))), second);
  expect_same(adapted.run(input(one(1, 0))), base);
  adapted.set_adapters(one(1));
  expect_same(adapted.run(input({})), second);
  adapted.set_adapters({});
  expect_same(adapted.run(input({})), base);
}

TEST_F(AdaptersTest, MixedBatchesEqualSoloRuns) {
  std::vector<text::Input> inputs;
  for (int i = 0; i < 32; ++i) {
    inputs.push_back(input({}));
    if (i % 4 != 3) inputs.back().adapters = one(size_t(i) % 4, kLoud + float(i / 16));
    if (i % 5 == 0) inputs.back().adapters.push_back({adapters_[size_t(i + 1) % 4], 3});
    inputs.back().tokens.push_back(97 + i % 7);
  }
  const std::vector<text::Result> together = serving({}, 32).run(inputs);
  const text::Generation alone = serving({}, 1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same(together[i], alone.run(inputs[i]));
  }
}

TEST_F(AdaptersTest, ARunningRequestKeepsItsVersion) {
  const text::Generation serving = this->serving(one(0));
  const text::Result want = serving.run(input({}));
  int pieces = 0;
  bool replaced = false;
  std::thread replacing;
  const text::Result got = serving.stream(input({}), [&](std::string_view) {
    if (pieces++ == 3) {
      replacing = std::thread([&] {  // not on the engine's thread, as a server would
        serving.set_adapters(one(1));
        replaced = model_->unload_adapter(adapters_[0]);
      });
      replacing.join();
    }
    return true;
  });
  EXPECT_TRUE(replaced || pieces < 4);
  expect_same(got, want);
  EXPECT_NE(serving.run(input({})).tokens, want.tokens);
}

TEST_F(AdaptersTest, MemoryIsCountedAndGivenBack) {
  EXPECT_EQ(model_->adapter_memory().bytes, 0u);
  EXPECT_GT(model_->adapter_memory().limit, uint64_t{1} << 28);
  model_->prepare_adapters(one(0));
  const uint64_t each = model_->adapter_memory().bytes;
  EXPECT_GT(each, 0u);
  {
    const text::Generation serving = this->serving(one(1));
    serving.run(input(one(2)));
    EXPECT_EQ(model_->adapter_memory().adapters, 3);
    EXPECT_EQ(model_->adapter_memory().bytes, 3 * each);
    EXPECT_TRUE(model_->unload_adapter(adapters_[1]));
    EXPECT_EQ(model_->adapter_memory().bytes, 3 * each) << "the serving's own is in use";
  }
  EXPECT_EQ(model_->adapter_memory().bytes, 2 * each);
  EXPECT_TRUE(model_->unload_adapter(adapters_[0]));
  EXPECT_TRUE(model_->unload_adapter(adapters_[2]));
  EXPECT_FALSE(model_->unload_adapter(adapters_[2]));
  EXPECT_EQ(model_->adapter_memory().bytes, 0u);
}

TEST_F(AdaptersTest, ErrorsComeWithTheRequestAndHarmNobody) {
  const text::Generation serving = this->serving();
  const text::Result base = serving.run(input({}));
  lora::Adapter alien;
  alien.name = "alien";
  alien.modules["model.layers.0.self_attn.z_proj"].low_rank =
      lora::LowRank{{1, 8, std::vector<float>(8, 1)}, {8, 1, std::vector<float>(8, 1)}, 1, {}, {}};
  const Adapter adapter = api::make_adapter(alien);
  try {
    serving.run(input({{adapter}}));
    FAIL() << "ran";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_request);
    EXPECT_NE(std::string(error.what()).find("z_proj"), std::string::npos) << error.what();
  }
  EXPECT_THROW(serving.set_adapters({{adapter}}), Error);
  EXPECT_THROW(this->serving({{adapter}}), Error);
  EXPECT_THROW(model_->prepare_adapters({{adapters_[0]}, {adapters_[0]}}), Error);
  EXPECT_THROW(model_->logits(std::vector<int32_t>{1}, [](int, std::span<const float>) {}, {{adapter}}), Error);
  expect_same(serving.run(input({})), base);
}

TEST_F(AdaptersTest, WhatDoesNotFitIntoMemoryIsRefusedByName) {
  ModelOptions options;
  options.threads = 1;
  options.max_adapter_bytes = 1000;
  const Model small = load_model(kTiny, options);
  try {
    small.prepare_adapters(one(0));
    FAIL() << "packed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("random rank 4 seed 1"), std::string::npos) << error.what();
  }
  EXPECT_EQ(small.adapter_memory().bytes, 0u);
}

TEST(AdapterMemory, CountsWhatHandlesHoldOnTheHost) {
  const Model model = load(golden_model("qwen3"), "cpu");
  const uint64_t before = model.adapter_memory().host_bytes;
  {
    const Adapter adapter = random_adapter(model, 4, 1), copy = adapter;
    EXPECT_EQ(model.adapter_memory().host_bytes - before, adapter.info().bytes);
    model.prepare_adapters({{adapter}});
    EXPECT_GT(model.adapter_memory().bytes, 0u);
    EXPECT_TRUE(model.unload_adapter(adapter));
  }
  EXPECT_EQ(model.adapter_memory().host_bytes, before);
}

}  // namespace
}  // namespace bumblebee::engine
