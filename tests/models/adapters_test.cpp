// Adapters at run time against the weights that they stand for: W + scale·B A in double, and what each option adds to
// it. On every backend and instruction set, every width of base; then the laws that rows of a batch keep.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "lora/adapter_cache.h"
#include "lora/identity.h"
#include "tests/models/adapting.h"
#include "tests/models/running.h"
#include "tests/support/replay_backend.h"
#include "tests/support/tolerance.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;

constexpr uint64_t kPlenty = uint64_t{1} << 32;

/// A runner with adapters and slots for sets.
class Adapted {
 public:
  Adapted(const Target& target, const TinyModel& tiny)
      : runner(target.create(), tiny, {.pages = 256}), cache(runner.backend(), runner.model(), "tiny", kPlenty) {}
  int32_t slot(const std::vector<Weighted>& adapters) {
    std::vector<lora::AdapterCache::Part> parts;
    for (const Weighted& one : adapters) parts.push_back({lora::identify(*one.adapter), one.weight});
    const auto set = cache.open(parts);
    return set == nullptr ? -1 : runner.slots().acquire(set);
  }

  Runner runner;
  lora::AdapterCache cache;
};

struct Option {
  const char* name;
  TinyModel tiny;
  std::vector<AdapterOptions> adapters;
  std::vector<float> weights;
};

const Format k4Bit = Format::affine(4, 32, DType::bf16, DType::bf16);

std::vector<Option> options() {
  std::vector<Option> list;
  const auto add = [&](const char* name, const TinyModel& tiny, const std::vector<AdapterOptions>& adapters,
                       const std::vector<float>& weights = {1}) {
    list.push_back({name, tiny, adapters, weights});
  };
  add("one", {.format = k4Bit}, {{}});
  add("rank1", {.format = k4Bit}, {{.rank = 1}});
  add("rank63", {.format = k4Bit}, {{.rank = 63}});
  add("rank256", {.format = k4Bit}, {{.rank = 256}});
  add("half_weight", {.format = k4Bit}, {{}}, {0.5f});
  add("composed", {.format = k4Bit}, {{.rank = 4}, {.dialect = lora::Dialect::peft, .rank = 7}, {.rank = 1}},
      {0.7f, -0.4f, 1});
  add("attention_only", {.format = k4Bit}, {{.modules = {"q_proj", "v_proj"}}});
  add("square", {.heads = 4, .kv_heads = 4, .head_dim = 16, .d_ff = 64, .format = k4Bit}, {{}});
  add("dora", {.format = k4Bit}, {{.dora = true}});
  add("dora_with_biases", {.family = "qwen2", .format = k4Bit}, {{.dora = true}});
  add("dora_beside_lora", {.format = k4Bit},
      {{.modules = {"q_proj", "down_proj"}, .dora = true}, {.modules = {"v_proj", "up_proj"}}}, {1, 0.5f});
  add("inner_bias", {.family = "qwen2", .format = k4Bit},
      {{.dialect = lora::Dialect::peft, .modules = {"q_proj", "k_proj", "v_proj"}, .inner_bias = true}}, {0.8f});
  add("biases", {.family = "qwen2", .format = k4Bit}, {{.dialect = lora::Dialect::peft, .biases = true}});
  add("full", {.format = k4Bit}, {{.full = true, .norms = true}});
  add("full_with_biases", {.family = "qwen2", .format = k4Bit}, {{.full = true, .biases = true, .norms = true}});
  add("full_below_lora", {.format = k4Bit}, {{.modules = {"o_proj"}, .full = true}, {.modules = {"o_proj", "q_proj"}}});
  add("norms", {.format = k4Bit}, {{.norms = true}});
  add("head", {.format = k4Bit}, {{.head = true}});
  add("dora_head", {.format = k4Bit}, {{.dora = true, .head = true}});
  add("full_head", {.format = k4Bit}, {{.modules = {}, .full = true, .head = true}});
  add("embedding", {.format = k4Bit}, {{.embedding = true}});
  add("embedding_tied_mlx", {.tied = true, .format = k4Bit}, {{.embedding = true}});
  add("embedding_tied_peft", {.tied = true, .format = k4Bit}, {{.dialect = lora::Dialect::peft, .embedding = true}});
  add("dora_embedding_tied_mlx", {.tied = true, .format = k4Bit}, {{.dora = true, .embedding = true}});
  add("dora_embedding_peft", {.format = k4Bit}, {{.dialect = lora::Dialect::peft, .dora = true, .embedding = true}});
  add("full_embedding_tied_mlx", {.tied = true, .format = k4Bit}, {{.modules = {}, .full = true, .embedding = true}});
  add("tied_head_alone", {.tied = true, .format = k4Bit},
      {{.dialect = lora::Dialect::peft, .modules = {}, .head = true}});
  add("beside_experts", {.family = "qwen3_moe", .format = k4Bit},
      {{.modules = {"q_proj", "k_proj", "v_proj", "o_proj"}, .norms = true}});
  add("beside_sinks", {.family = "gpt_oss", .format = Format::mxfp4()},
      {{.modules = {"q_proj", "k_proj", "v_proj", "o_proj"}, .norms = true}});
  add("router", {.family = "mixtral", .format = k4Bit}, {{.modules = {"gate", "v_proj"}}});
  add("shared_expert", {.family = "qwen2_moe", .format = k4Bit},
      {{.modules = {"gate_proj", "up_proj", "down_proj", "shared_expert_gate"}}});
  add("latents", {.family = "deepseek_v3", .format = k4Bit},
      {{.modules = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"}, .norms = true}});
  add("latents_whole", {.family = "deepseek_v2", .format = k4Bit},
      {{.modules = {"q_proj", "kv_a_proj_with_mqa", "o_proj"}, .dora = true, .norms = true}});
  add("gemma3", {.family = "gemma3", .tied = true, .format = k4Bit}, {{}});
  add("gemma3_norms", {.family = "gemma3", .tied = true, .format = k4Bit}, {{.norms = true}});
  add("gemma2_embedding", {.family = "gemma2", .tied = true, .format = k4Bit}, {{.norms = true, .embedding = true}});
  add("gemma4", {.family = "gemma4", .tied = true, .format = k4Bit},
      {{.modules = {"gate_proj", "down_proj", "per_layer_input_gate", "per_layer_projection"}, .norms = true}});
  add("olmo3", {.family = "olmo3", .format = k4Bit}, {{.norms = true}});
  add("glm4", {.family = "glm4", .format = k4Bit},
      {{.modules = {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}}});
  // In each layer: there is no attention, or nothing else.
  add("short_conv", {.family = "lfm2", .format = k4Bit, .interval = 3},
      {{.modules = {"in_proj", "out_proj", "w1", "w2", "w3"}}});
  add("short_conv_peft", {.family = "lfm2", .format = k4Bit, .interval = 3},
      {{.dialect = lora::Dialect::peft, .modules = {"in_proj", "out_proj"}}}, {0.5f});
  add("attention_of_lfm2", {.family = "lfm2", .format = k4Bit, .interval = 1}, {{.modules = {"q_proj", "out_proj"}}});
  add("delta_net", {.family = "qwen3_5", .format = k4Bit, .value_dim = 16, .interval = 3},
      {{.modules = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj", "down_proj"}}});
  add("fused_delta_net_peft", {.family = "qwen3_next", .format = k4Bit, .value_dim = 16, .interval = 3},
      {{.dialect = lora::Dialect::peft, .modules = {"in_proj_qkvz", "in_proj_ba", "out_proj"}}});
  add("gated_attention", {.family = "qwen3_5", .format = k4Bit, .interval = 1}, {{.modules = {"q_proj", "o_proj"}}});
  const std::vector<std::string> stacks = {"gate_proj", "up_proj", "down_proj"};
  add("experts", {.family = "qwen3_moe", .format = k4Bit}, {{.modules = {"q_proj"}, .experts = stacks}});
  add("experts_with_biases", {.family = "gpt_oss", .format = Format::mxfp4()},
      {{.modules = {"q_proj"}, .experts = stacks}, {.modules = {}, .rank = 3, .experts = {"down_proj"}}}, {1, 0.5f});
  add("experts_of_gemma4", {.family = "gemma4_moe", .tied = true, .format = k4Bit},
      {{.modules = {"gate_proj", "down_proj"}, .experts = stacks},
       {.dialect = lora::Dialect::peft, .modules = {}, .rank = 3, .experts = {"up_proj"}, .single = true}},
      {1, 0.5f});
  add("experts_alone", {.family = "qwen2_moe", .format = k4Bit, .normalised = false},
      {{.modules = {}, .experts = {"down_proj"}}});
  add("experts_one_by_one", {.family = "mixtral", .format = k4Bit, .apart = true},
      {{.dialect = lora::Dialect::peft, .modules = {"v_proj"}, .experts = stacks, .single = true}}, {0.5f});
  add("experts_composed", {.family = "qwen3_moe", .format = k4Bit, .apart = true},
      {{.modules = {"gate"}, .experts = {"gate_proj", "down_proj"}},
       {.dialect = lora::Dialect::peft, .modules = {}, .rank = 3, .experts = stacks, .single = true},
       {.modules = {}, .rank = 7, .experts = {"up_proj"}}},
      {0.7f, 1, -0.4f});
  add("bf16", {.format = Format::dense(DType::bf16)}, {{}});
  add("f16", {.format = Format::dense(DType::f16)}, {{}});
  add("f32", {.format = Format::dense(DType::f32)}, {{}});
  static const char* const kNames[] = {"b2", "b3", "b5", "b6", "b8"};
  int i = 0;
  for (const int bits : {2, 3, 5, 6, 8})
    add(kNames[i++], {.format = Format::affine(bits, 32, DType::f16, DType::f16)}, {{}});
  return list;
}

/// Errors of f32 sums over a few layers, relative to the root mean square of the logits: sums of up to 256 products in
/// every operation, of which there are about a dozen per layer (docs/internals/numerics.md, "Whole models"), times what
/// sharp attention and deltas as large as the weights make of them.
constexpr double kF32Error = 3e-4;
/// For the reference: weights of the dense model were rounded to f32 once, inverse frequencies are f32 in both.
constexpr double kRefError = 2e-5;

class EveryOption : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, EveryOption, testing::Range(0, int(options().size())),
                         [](const auto& p) { return options()[size_t(p.param)].name; });

TEST_P(EveryOption, EqualsDenseWeights) {
  const Option option = options()[size_t(GetParam())];
  std::vector<lora::Adapter> adapters;
  for (size_t i = 0; i < option.adapters.size(); ++i)
    adapters.push_back(random_adapter(option.tiny, option.adapters[i], 40 + i));
  std::vector<Weighted> weighted;
  for (size_t i = 0; i < adapters.size(); ++i)
    weighted.push_back({&adapters[i], i < option.weights.size() ? option.weights[i] : 1});

  TinyModel untied = option.tiny;
  untied.tied = false;
  MemoryWeights dense = merged(option.tiny, weighted);
  const std::vector<int32_t> tokens = random_tokens(3, 21, option.tiny.vocab);
  Runner merged_runner(create_reference(), read_spec(untied.config(), "dense"), dense, {});
  const std::vector<float> logits = merged_runner.step({{0, tokens}}).front();
  const std::vector<double> want(logits.begin(), logits.end());
  const std::vector<float> base = Runner(create_reference(), option.tiny, {}).step({{0, tokens}}).front();
  ASSERT_GT(relative_to_rms(base, want), 0.01) << "the adapter does nothing that could be seen";

  for (const Target& target : every_target()) {
    if (target.options.fast) continue;  // int8 activations would drown what is tested here
    if (!lacked(target.backend, option.tiny).empty()) continue;
    const bool experts = std::any_of(option.adapters.begin(), option.adapters.end(),
                                     [](const AdapterOptions& adapter) { return !adapter.experts.empty(); });
    if (experts && lacks(target.backend, Operation::lora_experts)) continue;
    SCOPED_TRACE(target.name());
    Adapted adapted(target, option.tiny);
    const int32_t slot = adapted.slot(weighted);
    ASSERT_GE(slot, 0);
    const std::vector<float> got = adapted.runner.step({{0, tokens, slot}}).front();
    EXPECT_LT(relative_to_rms(got, want), target.backend == "ref" ? kRefError : kF32Error);
  }
}

/// Sets of every kind, with one that is not there: rows of the base.
struct Crowd {
  TinyModel tiny;
  std::vector<lora::Adapter> adapters;
  std::vector<std::vector<Weighted>> sets;

  explicit Crowd(const TinyModel& t) : tiny(t) {
    std::vector<AdapterOptions> kinds = {{.rank = 8},
                                         {.rank = 3, .embedding = true, .head = true},
                                         {.dora = true},
                                         {.full = true, .norms = true},
                                         {.modules = {"q_proj", "down_proj"}, .rank = 16},
                                         {.rank = 5, .norms = true}};
    if (tiny.has_experts()) {
      const std::vector<std::string> attention = {"q_proj", "k_proj", "v_proj", "o_proj"};
      for (AdapterOptions& kind : kinds) kind.modules = attention;
      for (const size_t i : {0u, 1u, 5u}) kinds[i].experts = {"gate_proj", "up_proj", "down_proj"};
      kinds[1].dialect = lora::Dialect::peft;
      kinds[1].single = true;
      kinds[4].modules = {};
      kinds[4].experts = {"down_proj"};
    }
    for (size_t i = 0; i < kinds.size(); ++i) adapters.push_back(random_adapter(tiny, kinds[i], 60 + i));
    const auto* a = adapters.data();
    sets = {{},           {{a, 1}},      {{a + 1, 0.5f}, {a, 0.25f}}, {{a + 2, 1}}, {{a + 3, 1}},
            {{a + 4, 1}}, {{a + 4, -2}}, {{a + 5, 1}, {a + 4, 1}}};
  }
};

std::vector<TinyModel> bases() {
  return {{.format = k4Bit},
          {.family = "qwen2", .d_ff = 128, .format = Format::affine(8, 64, DType::f16, DType::f16)},
          {.family = "qwen3_moe", .format = k4Bit}};
}

class Laws : public testing::TestWithParam<std::tuple<Target, int>> {
 protected:
  void SetUp() override {
    if (tiny_.has_experts() && lacks(target_.backend, Operation::lora_experts))
      GTEST_SKIP() << "no experts on " << target_.backend;
  }
  const Target target_ = std::get<0>(GetParam());
  const TinyModel tiny_ = bases()[size_t(std::get<1>(GetParam()))];
};
INSTANTIATE_TEST_SUITE_P(All, Laws,
                         testing::Combine(testing::ValuesIn(every_target()), testing::Range(0, int(bases().size()))),
                         [](const auto& p) {
                           return std::get<0>(p.param).name() + "_" + bases()[size_t(std::get<1>(p.param))].family;
                         });

/// Bit for bit, in both precisions: the tolerance is zero.
TEST_P(Laws, ThirtyTwoRowsOverEightSetsEqualTheirSoloRuns) {
  const Crowd crowd(tiny_);
  Adapted together(target_, tiny_);
  std::vector<int32_t> slots;
  for (const auto& set : crowd.sets) slots.push_back(together.slot(set));
  EXPECT_EQ(slots.front(), -1);
  std::vector<Chunk> prompts, steps;
  for (int row = 0; row < 32; ++row) {  // rows of one set together, as the scheduler has them; prompts of all lengths
    const int32_t slot = slots[size_t(row / 4)];
    prompts.push_back({row, random_tokens(uint64_t(row), 1 + row % 5, tiny_.vocab), slot});
    steps.push_back({row, random_tokens(uint64_t(100 + row), 1, tiny_.vocab), slot});
  }
  const auto first = together.runner.step(prompts), second = together.runner.step(steps);
  for (int row = 0; row < 32; ++row) {
    Adapted alone(target_, tiny_);
    const int32_t slot = alone.slot(crowd.sets[size_t(row / 4)]);
    const auto expect_same = [&](const Chunk& chunk, const std::vector<float>& want) {
      expect_same_rows(target_, tiny_.layers, alone.runner.step({{0, chunk.tokens, slot}}).front(), want,
                       std::to_string(row));
    };
    expect_same(prompts[size_t(row)], first[size_t(row)]);
    expect_same(steps[size_t(row)], second[size_t(row)]);
  }
}

TEST_P(Laws, ChunksGiveTheResultOfTheWhole) {
  const Crowd crowd(tiny_);
  const std::vector<int32_t> tokens = random_tokens(9, 41, tiny_.vocab);
  for (const size_t set : {1u, 3u, 4u, 7u}) {
    Adapted whole(target_, tiny_), parts(target_, tiny_);
    const std::vector<float> want = whole.runner.step({{0, tokens, whole.slot(crowd.sets[set])}}).front();
    const int32_t slot = parts.slot(crowd.sets[set]);
    std::vector<float> got;
    for (size_t at = 0, size = 1; at < tokens.size(); at += size, size = size * 3 + 1) {
      const auto end = tokens.begin() + int64_t(std::min(tokens.size(), at + size));
      const auto part = parts.runner.step({{0, {tokens.begin() + int64_t(at), end}, slot}}).front();
      got.insert(got.end(), part.begin(), part.end());
    }
    expect_same_rows(target_, tiny_.layers, got, want, "set " + std::to_string(set));
  }
}

TEST_P(Laws, WhatAddsNothingIsTheBaseBitForBit) {
  const std::vector<int32_t> tokens = random_tokens(10, 17, tiny_.vocab);
  const std::vector<float> base = Runner(target_.create(), tiny_, {}).step({{0, tokens}}).front();
  AdapterOptions options{.embedding = true, .head = true};
  if (tiny_.has_experts()) {
    options.modules = {"q_proj"};
    options.experts = {"gate_proj", "down_proj"};
  }
  lora::Adapter adapter = random_adapter(tiny_, options, 70);
  lora::Adapter no_b = adapter, no_a = adapter, no_scale = adapter;
  for (auto& [path, change] : no_b.modules)
    std::fill(change.low_rank->b.values.begin(), change.low_rank->b.values.end(), -0.0f);
  for (auto& [path, change] : no_a.modules)
    std::fill(change.low_rank->a.values.begin(), change.low_rank->a.values.end(), 0.0f);
  lora::set_scale(no_scale, 0);
  for (const auto& [name, one] :
       {std::pair("B = 0", &no_b), std::pair("A = 0", &no_a), std::pair("scale = 0", &no_scale)}) {
    Adapted adapted(target_, tiny_);
    EXPECT_EQ(adapted.runner.step({{0, tokens, adapted.slot({{one, 1}})}}).front(), base) << name;
  }
  Adapted adapted(target_, tiny_);
  EXPECT_EQ(adapted.slot({{&adapter, 0}}), -1) << "weight 0 is the base itself";
}

}  // namespace
}  // namespace bumblebee::models
