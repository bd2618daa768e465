// Fitting to a base: what does not fit is listed.
#include "lora/bind_to_base.h"

#include <gtest/gtest.h>

#include "base/log.h"
#include "tests/lora/bases.h"

namespace bumblebee::lora {
namespace {

using namespace testing;
using ModuleKind = nn::TargetModule::Kind;

TEST(BindToBase, LeavesWhatFitsAsItIs) {
  for (Directory d : {mlx_directory(), peft_directory()}) {
    const Adapter adapter = d.read();
    for (const bool tied : {false, true}) {
      const BoundAdapter bound = bind_to_base(adapter, base(2, tied));
      EXPECT_EQ(bound.modules.size(), adapter.modules.size());
      for (const auto& [path, change] : adapter.modules)
        EXPECT_EQ(bound.modules.at(path), &change) << "nothing is copied";
    }
  }
}

/// Zeros stand where mlx-lm's layers have a module that this layer of the base has not; anything else is unknown.
TEST(BindToBase, LeavesOutZerosOfModulesThatOtherLayersHave) {
  Base uneven = base(3);
  std::erase_if(uneven.target_modules, [](const auto& m) { return m.name == layer(2, "self_attn.q_proj"); });
  ModuleDelta zeros = mlx_directory().read().modules.at(kQ0);
  std::fill(zeros.low_rank->b.values.begin(), zeros.low_rank->b.values.end(), 0.0f);
  Adapter adapter;
  adapter.modules[kQ0] = mlx_directory().read().modules.at(kQ0);
  adapter.modules[layer(2, "self_attn.q_proj")] = zeros;
  EXPECT_EQ(bind_to_base(adapter, uneven).modules.size(), 1u);
  adapter.modules["language_model." + layer(2, "self_attn.q_proj")] = zeros;
  EXPECT_EQ(bind_to_base(adapter, uneven).modules.size(), 1u);
  for (const std::string& name :
       {layer(0, "mixer.in_proj"), layer(3, "self_attn.q_proj"), std::string("transformer.h.1.attn")}) {
    Adapter strange = adapter;
    strange.modules[name] = zeros;
    expect_misfit(strange, uneven, cat("got 1 of 4: '", name, "'"));
  }
}

TEST(BindToBase, ListsModulesThatTheBaseLacks) {
  Adapter adapter = mlx_directory().read();
  adapter.modules["model.layers.0.mlp.experts"] = adapter.modules.at(kQ0);
  expect_misfit(adapter, base(), "got 1 of 5: 'model.layers.0.mlp.experts'");
  Adapter foreign;
  for (int i = 0; i < 20; ++i) foreign.modules[cat("transformer.h.", i, ".attn")] = adapter.modules.at(kQ0);
  expect_misfit(foreign, base(), "none of its 20 modules is in the base");
  expect_misfit(foreign, base(), "and 12 more");
  expect_misfit(Adapter{}, base(), "expected modules, got none");
  expect_misfit(mlx_directory().read(), base(1), "got 2 of 4");
}

/// Beside products of heads too, whichever way the base has them.
TEST(BindToBase, RefusesAdaptersOfHeadsProductsInFiles) {
  Base latent = base();
  for (const char* name : {"self_attn.embed_q", "self_attn.unembed_out"})
    latent.target_modules.push_back({.name = layer(0, name), .in = 5, .out = 4, .kind = ModuleKind::heads});
  const Adapter beside = mlx_directory().read();
  EXPECT_EQ(bind_to_base(beside, latent).modules.size(), 4u);
  for (const char* path : {"self_attn.embed_q", "self_attn.kv_b_proj"}) {
    Adapter adapter = mlx_directory().read();
    adapter.modules[layer(0, path)] = adapter.modules.at(kQ0);
    try {
      bind_to_base(adapter, latent);
      ADD_FAILURE() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::unsupported);
      const std::string text = e.what();
      EXPECT_NE(text.find("what makes keys and values of latents is changed as kv_b_proj"), std::string::npos) << text;
      EXPECT_NE(text.find("got 1 of 5: '" + layer(0, path)), std::string::npos) << text;
    }
  }
}

/// Layers with three experts, whose files have a module for each under `each`.
Base base_with_experts() {
  Base moe = base();
  for (int i = 0; i < 2; ++i) {
    moe.target_modules.push_back({.name = layer(i, "mlp.switch_mlp.down_proj"),
                                  .in = 5,
                                  .out = 4,
                                  .kind = ModuleKind::experts,
                                  .experts = 3,
                                  .each = layer(i, "mlp.experts.#.down_proj")});
    moe.target_modules.push_back({layer(i, "mlp.gate"), 4, 8, ModuleKind::linear, false, true});
  }
  return moe;
}

Matrix counted(int rows, int cols) {
  Matrix m{rows, cols, std::vector<float>(size_t(rows) * size_t(cols))};
  for (size_t i = 0; i < m.values.size(); ++i) m.values[i] = float(i + 1);
  return m;
}

Adapter with_low_rank(const std::string& path, const LowRank& low) {
  Adapter adapter = mlx_directory().read();
  adapter.targets.reset();
  adapter.modules[path].low_rank = low;
  return adapter;
}

/// Three heads of two features of keys and three of values, from a latent of four.
Base base_with_latents(bool whole) {
  Base latent = base();
  if (whole)
    latent.target_modules.push_back(
        {.name = layer(0, "self_attn.kv_b_proj"), .in = 4, .out = 15, .kind = ModuleKind::heads});
  latent.target_modules.push_back(
      {.name = layer(0, "self_attn.embed_q"), .in = 2, .out = 4, .kind = ModuleKind::heads, .experts = 3});
  latent.target_modules.push_back(
      {.name = layer(0, "self_attn.unembed_out"), .in = 4, .out = 3, .kind = ModuleKind::heads, .experts = 3});
  return latent;
}

TEST(BindToBase, FactorsOfKvBBecomeThoseOfHeads) {
  const Matrix a = counted(2, 4), b = counted(15, 2);
  for (const bool whole : {false, true}) {
    const Base latent = base_with_latents(whole);
    for (const char* prefix : {"", "language_model."}) {
      const Adapter adapter = with_low_rank(cat(prefix, layer(0, "self_attn.kv_b_proj")), {a, b, 1.5, {}, {}});
      const BoundAdapter bound = bind_to_base(adapter, latent);
      const auto &keys = bound.experts.at(layer(0, "self_attn.embed_q")),
                 &values = bound.experts.at(layer(0, "self_attn.unembed_out"));
      ASSERT_EQ(keys.size(), 3u);
      ASSERT_EQ(values.size(), 3u);
      for (size_t h = 0; h < 3; ++h) {
        EXPECT_EQ(keys[h].rank, 2);
        EXPECT_EQ(keys[h].scale, 1.5f);
        EXPECT_EQ(values[h].scale, 1.5f);
        for (size_t k = 0; k < 2; ++k) {
          for (size_t i = 0; i < 2; ++i) EXPECT_EQ(keys[h].a[k * 2 + i], b.values[(5 * h + i) * 2 + k]);
          for (size_t c = 0; c < 4; ++c) EXPECT_EQ(keys[h].b[c * 2 + k], a.values[k * 4 + c]);
          for (size_t i = 0; i < 3; ++i) EXPECT_EQ(values[h].b[i * 2 + k], b.values[(5 * h + 2 + i) * 2 + k]);
        }
        EXPECT_TRUE(std::equal(values[h].a.begin(), values[h].a.end(), a.values.begin(), a.values.end()));
      }
    }
  }
}

/// What its config says of kv_b_proj is held against the products in its place, whichever way the file has it.
TEST(BindToBase, KvBIsAskedForWhereTheConfigNamesIt) {
  const LowRank low{counted(2, 4), counted(15, 2), 1, {}, {}};
  for (const bool whole : {false, true}) {
    Base latent = base(4);
    for (int i = 0; i < 4; ++i) {
      for (nn::TargetModule module : base_with_latents(whole).target_modules) {
        if (module.kind != ModuleKind::heads) continue;
        module.name = layer(i, std::string(inside_layer(module.name)));
        latent.target_modules.push_back(module);
      }
    }
    const auto adapter = [&](std::initializer_list<int> of_queries, std::initializer_list<int> of_latents) {
      Adapter made;
      for (const int i : of_queries)
        made.modules[layer(i, "self_attn.q_proj")].low_rank = LowRank{counted(2, 4), counted(6, 2), 1, {}, {}};
      for (const int i : of_latents) made.modules[layer(i, "self_attn.kv_b_proj")].low_rank = low;
      return made;
    };
    const auto bound = [&](const Adapter& made) { return bind_to_base(made, latent).of_heads.size(); };

    const std::vector<std::string> keys = {"self_attn.q_proj", "self_attn.kv_b_proj"};
    Adapter half = adapter({0, 1, 2, 3}, {0, 2, 3});
    half.targets = Targets::mlx(keys, 0);
    expect_misfit(half, latent, cat("its tensors lack: expected none, got 1: '", layer(1, keys[1]), "'"));
    half.targets = Targets::peft({.names = {"q_proj", "kv_b_proj"}});
    expect_misfit(half, latent, cat("its tensors lack: expected none, got 1: '", layer(1, keys[1]), "'"));
    half.targets = Targets::peft({.names = {"q_proj"}});
    expect_misfit(half, latent, "expected none of 3");
    Adapter all = adapter({0, 1, 2, 3}, {0, 1, 2, 3});
    all.targets = Targets::mlx(keys, 0);
    EXPECT_EQ(bound(all), 8u);
    Adapter none = adapter({0, 1, 2, 3}, {});
    none.targets = Targets::mlx({keys[0]}, 0);
    EXPECT_EQ(bound(none), 0u);

    // The last two of three layers are others in a base of four.
    Adapter last = adapter({}, {1, 2});
    last.targets = Targets::mlx({keys[1]}, 2);
    expect_misfit(last, latent,
                  cat("changes other layers of a base with 4: expected none of 1: '", layer(1, keys[1]), "'"));
    last = adapter({}, {2, 3});
    last.targets = Targets::mlx({keys[1]}, 2);
    EXPECT_EQ(bound(last), 4u);
  }
}

TEST(BindToBase, RefusesMoreThanFactorsOfKvB) {
  const Base latent = base_with_latents(true);
  const std::string path = layer(0, "self_attn.kv_b_proj");
  expect_misfit(with_low_rank(path, {counted(2, 5), counted(15, 2), 1, {}, {}}), latent,
                "inputs of A: expected 4, got 5");
  expect_misfit(with_low_rank(path, {counted(2, 4), counted(14, 2), 1, {}, {}}), latent,
                "outputs of B: expected 15, got 14");
  const auto refused = [&](const Adapter& adapter, const std::string& part) {
    try {
      bind_to_base(adapter, latent);
      ADD_FAILURE() << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(e.what()).find("adapters of kv_b_proj: expected factors alone"), std::string::npos)
          << e.what();
      EXPECT_NE(std::string(e.what()).find(cat(path, " (", part, ")")), std::string::npos) << e.what();
    }
  };
  const std::vector<float> ones(15, 1);
  refused(with_low_rank(path, {counted(2, 4), counted(15, 2), 1, {}, ones}), "DoRA");
  refused(with_low_rank(path, {counted(2, 4), counted(15, 2), 1, ones, {}}), "a bias");
  Adapter whole = mlx_directory().read();
  whole.targets.reset();
  whole.modules[path].weight = counted(15, 4);
  refused(whole, "a whole weight");
  Adapter twice = with_low_rank(path, {counted(2, 4), counted(15, 2), 1, {}, {}});
  twice.modules["language_model." + path] = twice.modules.at(path);
  expect_misfit(twice, latent, "got two");
}

TEST(BindToBase, ModulesBesideExpertsAreAsWithoutThem) {
  const Base moe = base_with_experts();
  for (Directory d : {mlx_directory(), peft_directory()}) {
    const Adapter adapter = d.read();
    EXPECT_EQ(bind_to_base(adapter, moe).modules.size(), 4u);
  }
  Adapter router = peft_directory().read();
  router.modules[layer(1, "mlp.gate")].low_rank =
      LowRank{{1, 4, {1, 2, 3, 4}}, {8, 1, std::vector<float>(8, 1)}, 1, {}, {}};
  router.targets.reset();
  EXPECT_EQ(bind_to_base(router, moe).modules.size(), 5u);
}

TEST(BindToBase, AStackGivesEachExpertItsFactors) {
  LowRank stack{counted(6, 5), counted(12, 2), 1.5f, {}, {}, 3};
  const Adapter adapter = with_low_rank(layer(1, "mlp.switch_mlp.down_proj"), stack);
  const BoundAdapter bound = bind_to_base(adapter, base_with_experts());
  EXPECT_EQ(bound.modules.size(), 4u);
  ASSERT_EQ(bound.experts.size(), 1u);
  const std::vector<FactorView>& experts = bound.experts.at(layer(1, "mlp.switch_mlp.down_proj"));
  ASSERT_EQ(experts.size(), 3u);
  for (size_t e = 0; e < 3; ++e) {
    EXPECT_EQ(experts[e].rank, 2);
    EXPECT_EQ(experts[e].scale, 1.5f);
    EXPECT_EQ(experts[e].a.size(), 10u);
    EXPECT_EQ(experts[e].a[0], float(10 * e + 1));
    EXPECT_EQ(experts[e].b.size(), 8u);
    EXPECT_EQ(experts[e].b[0], float(8 * e + 1));
  }
}

TEST(BindToBase, ExpertsMayComeOneByOne) {
  Adapter adapter = with_low_rank(layer(0, "mlp.experts.2.down_proj"), {counted(2, 5), counted(4, 2), 3, {}, {}});
  adapter.modules["language_model." + layer(0, "mlp.experts.0.down_proj")].low_rank =
      LowRank{counted(1, 5), counted(4, 1), 2, {}, {}};
  const BoundAdapter bound = bind_to_base(adapter, base_with_experts());
  const std::vector<FactorView>& experts = bound.experts.at(layer(0, "mlp.switch_mlp.down_proj"));
  EXPECT_EQ(experts[0].rank, 1);
  EXPECT_EQ(experts[1].rank, 0);
  EXPECT_EQ(experts[2].rank, 2);
  EXPECT_EQ(experts[2].scale, 3);

  adapter.modules[layer(0, "mlp.experts.0.down_proj")].low_rank = LowRank{counted(1, 5), counted(4, 1), 2, {}, {}};
  expect_misfit(adapter, base_with_experts(), "expected one module for expert 0 of");
}

/// As of other modules: an adapter for the last of two layers is another one for a base that has more.
TEST(BindToBase, ExpertsOneByOneMayBeOfOtherLayers) {
  const std::string key = "mlp.experts.2.down_proj";
  const auto of_layer = [&](int i) {
    Adapter adapter = with_low_rank(layer(i, key), {counted(2, 5), counted(4, 2), 3, {}, {}});
    std::erase_if(adapter.modules, [&](const auto& module) { return module.first != layer(i, key); });
    adapter.targets = Targets::mlx({key}, 1);
    return adapter;
  };
  const Adapter first = of_layer(0), last = of_layer(1);
  expect_misfit(first, base_with_experts(),
                cat("changes other layers of a base with 2: expected none of 1: '", layer(0, key), "'"));
  EXPECT_EQ(bind_to_base(last, base_with_experts()).experts.at(layer(1, "mlp.switch_mlp.down_proj"))[2].rank, 2);
}

/// gpt-oss calls a stack what PEFT calls a parameter, whose matrices lie turned over: sizes may fit all the same.
TEST(BindToBase, AStackIsNoParameterOfPeft) {
  const std::string path = layer(0, "mlp.experts.down_proj");
  Base moe = base();
  moe.target_modules.push_back(
      {.name = path, .in = 5, .out = 4, .kind = ModuleKind::experts, .experts = 3, .each = path + "#"});
  Adapter adapter = with_low_rank(path, {counted(6, 5), counted(12, 2), 1, {}, {}, 3});
  EXPECT_EQ(bind_to_base(adapter, moe).experts.size(), 1u);
  adapter.dialect = Dialect::peft;
  expect_misfit(adapter, moe, "modules that the base does not have: expected none, got 1 of 5: '" + path + "'");
}

/// A hybrid's layers differ: mlx-lm's form, made without the base, has zeros for what a layer lacks.
TEST(BindToBase, ZerosOfModulesThatTheBaseLacksAreLeftOut) {
  Adapter adapter =
      with_low_rank(layer(1, "linear_attn.out_proj"), {counted(2, 4), {4, 2, std::vector<float>(8, 0)}, 1, {}, {}});
  Base hybrid = base();
  hybrid.target_modules.push_back({layer(0, "linear_attn.out_proj"), 4, 4, ModuleKind::linear, false});
  EXPECT_EQ(bind_to_base(adapter, hybrid).modules.size(), 4u);
  expect_misfit(adapter, base(), "modules that the base does not have: expected none, got 1 of 5");
  adapter.modules[layer(1, "linear_attn.out_proj")].low_rank->b.values[3] = 1e-30f;
  expect_misfit(adapter, hybrid, "modules that the base does not have: expected none, got 1 of 5");
}

/// Gemma 4 has its stacks below "experts", not beside it.
TEST(BindToBase, AParameterOfPeftFindsStacksBelowItsExperts) {
  Base moe = base();
  for (const char* part : {"gate_proj", "up_proj"}) {
    moe.target_modules.push_back({.name = layer(0, std::string("experts.switch_glu.") + part),
                                  .in = 5,
                                  .out = 2,
                                  .kind = ModuleKind::experts,
                                  .experts = 3,
                                  .each = layer(0, std::string("experts.#.") + part)});
  }
  Adapter adapter = with_low_rank(layer(0, "experts.gate_up_proj"), {counted(6, 5), counted(12, 2), 1, {}, {}, 3});
  adapter.dialect = Dialect::peft;
  const BoundAdapter bound = bind_to_base(adapter, moe);
  ASSERT_EQ(bound.experts.size(), 2u);
  const auto& up = bound.experts.at(layer(0, "experts.switch_glu.up_proj"));
  EXPECT_EQ(up[1].a[0], 11.0f);
  EXPECT_EQ(up[1].b[0], 13.0f);  // four rows of two for each expert, the last two of them up's
}

TEST(BindToBase, RefusesWhatDoesNotFitAStack) {
  const Base moe = base_with_experts();
  const std::string stack = layer(0, "mlp.switch_mlp.down_proj"), one = layer(0, "mlp.experts.1.down_proj");
  const LowRank single{counted(2, 5), counted(4, 2), 1, {}, {}};
  expect_misfit(with_low_rank(stack, {counted(4, 5), counted(8, 2), 1, {}, {}, 2}), moe, "experts: expected 3, got 2");
  expect_misfit(with_low_rank(stack, {counted(6, 4), counted(12, 2), 1, {}, {}, 3}), moe,
                "inputs of A: expected 5, got 4");
  expect_misfit(with_low_rank(stack, {counted(6, 5), counted(9, 2), 1, {}, {}, 3}), moe,
                "outputs of B: expected 4, got 3");
  expect_misfit(with_low_rank(stack, single), moe, "experts: expected 3, got 0");
  expect_misfit(with_low_rank(one, {counted(6, 5), counted(12, 2), 1, {}, {}, 3}), moe,
                "expected factors of one expert");
  expect_misfit(with_low_rank(kQ0, {counted(6, 4), counted(18, 2), 1, {}, {}, 3}), moe,
                "expected, got those of 3 experts");
  expect_misfit(with_low_rank(layer(0, "mlp.experts.3.down_proj"), single), moe, "got 1 of 5");
  Adapter keyed = mlx_directory().read();
  keyed.targets = Targets::mlx({"self_attn.q_proj", "mlp.down_proj", "mlp.switch_mlp.down_proj"}, 0);
  expect_misfit(keyed, moe, "modules that its config names and its tensors lack: expected none, got 2");
  LowRank dora = single;
  dora.magnitude = {1, 1, 1, 1};
  const Adapter adapter = with_low_rank(one, dora);
  try {
    bind_to_base(adapter, moe);
    ADD_FAILURE() << "it fits";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(e.what()).find("expected factors alone, got more in 1 of 5: '" + one + " (DoRA)'"),
              std::string::npos)
        << e.what();
  }
}

TEST(BindToBase, ListsOtherSizes) {
  Base other = base();
  for (nn::TargetModule& module : other.target_modules) {
    if (module.name == kQ0) module.in = 8;
  }
  expect_misfit(mlx_directory().read(), other,
                "other sizes: expected none, got 1 of 4: '" + kQ0 + " (inputs of A: expected 8, got 4)'");
  other = base();
  for (nn::TargetModule& module : other.target_modules) {
    if (module.kind == ModuleKind::linear && module.name != "lm_head") module.out = 16;
  }
  expect_misfit(mlx_directory().read(), other, "got 4 of 4");
}

TEST(BindToBase, ListsPartsThatAModuleCannotTake) {
  const Adapter good = peft_directory().read();
  const auto with = [&](const std::string& path, const ModuleDelta& change) {
    Adapter adapter = good;
    adapter.modules[path] = change;
    return adapter;
  };
  const std::string down = layer(0, "mlp.down_proj"), norm = layer(0, "input_layernorm");
  expect_misfit(with(norm, good.modules.at(kQ0)), base(), "a norm cannot have factors");
  ModuleDelta change = good.modules.at(down);
  change.bias = std::vector<float>(4, 1.0f);
  expect_misfit(with(down, change), base(), "bias: the base has none here");
  change = good.modules.at(kQ0);
  change.bias = std::vector<float>(5, 1.0f);
  expect_misfit(with(kQ0, change), base(), "bias: expected [6], got [5]");
  change.bias = std::vector<float>(6, 1.0f);
  const Adapter biased = with(kQ0, change);
  EXPECT_EQ(*bind_to_base(biased, base()).modules.at(kQ0), change);
  change = {};
  change.weight = Matrix{1, 5, std::vector<float>(5)};
  expect_misfit(with(norm, change), base(), "weight: expected [1, 4], got [1, 5]");
  change.weight = Matrix{4, 9, std::vector<float>(36)};
  expect_misfit(with("model.embed_tokens", change), base(), "weight: expected [9, 4], got [4, 9]");
  change = good.modules.at(kQ0);
  change.low_rank->magnitude.assign(4, 1.0f);
  expect_misfit(with(kQ0, change), base(), "magnitude: expected [6], got [4]");
}

TEST(BindToBase, MissesWhatTheConfigNames) {
  Directory d = peft_directory();
  d.remove(kPeft + kQ0 + ".lora_A.weight");
  d.remove(kPeft + kQ0 + ".lora_B.weight");
  expect_misfit(d.read(), base(), "its config names and its tensors lack: expected none, got 1: '" + kQ0);
  d.config["target_modules"] = "all-linear";
  expect_misfit(d.read(), base(), "got 1: '" + kQ0);
  d.config["target_modules"] = nullptr;
  const Adapter without = d.read();
  EXPECT_EQ(bind_to_base(without, base()).modules.size(), 3u);
}

/// Trained on the last two layers of two; on a base of four that would be layers 2 and 3.
TEST(BindToBase, KnowsAnAdapterOfABaseWithFewerLayers) {
  expect_misfit(mlx_directory().read(), base(4), "it changes other layers of a base with 4: expected none of 4");
  Directory d = mlx_directory();
  d.config["num_layers"] = -1;
  expect_misfit(d.read(), base(4), "its tensors lack: expected none, got 4");
  expect_misfit(peft_directory().read(), base(4), "its tensors lack: expected none, got 4");
}

/// Trained on the same model in another packaging: as the text half of one with vision.
TEST(BindToBase, FindsModulesUnderTheNamesOfAnotherPackaging) {
  Directory mlx = mlx_directory(), peft = peft_directory();
  for (Tensor& tensor : mlx.tensors) tensor.name = "language_model." + tensor.name;
  for (Tensor& tensor : peft.tensors)
    tensor.name = kPeft + "model.language_model." + tensor.name.substr(kPeft.size() + std::string("model.").size());
  for (Directory* d : {&mlx, &peft}) {
    const Adapter adapter = d->read();
    const BoundAdapter bound = bind_to_base(adapter, base());
    ASSERT_EQ(bound.modules.size(), 4u);
    EXPECT_TRUE(bound.modules.at(kQ0)->low_rank);
  }
  // What was trained to see is left out by name; alone, it is no adapter for text.
  const std::string seen = kPeft + "model.visual.blocks.0.attn.q_proj";
  peft.tensors.push_back({seen + ".lora_A.weight", {2, 3}, DType::f32, {}});
  peft.tensors.push_back({seen + ".lora_B.weight", {3, 2}, DType::f32, {}});
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  const Adapter both = peft.read();
  EXPECT_EQ(bind_to_base(both, base()).modules.size(), 4u);
  set_log_sink({});
  EXPECT_NE(told.find("left out 1 modules beside the text model: 'model.visual.blocks.0.attn.q_proj'"),
            std::string::npos)
      << told;
  peft.tensors.erase(peft.tensors.begin(), peft.tensors.end() - 2);
  const Adapter blind = peft.read();
  expect_misfit(blind, base(), "none of its 1 modules is in the base");
}

}  // namespace
}  // namespace bumblebee::lora
