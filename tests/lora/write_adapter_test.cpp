// What is written reads back as the same adapter: every golden in its own format and, where the other can hold it, in
// the other one.
#include "lora/write_adapter.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "lora/dense.h"
#include "lora/mlx_names.h"
#include "tests/lora/adapter_files.h"
#include "tests/support/golden_file.h"

namespace bumblebee::lora {
namespace {

using namespace testing;
using testing_support::golden_path;

Adapter through(const Adapter& adapter, Dialect to, const WriteOptions& options = {},
                std::vector<std::string>* notes = nullptr) {
  const test::TemporaryDirectory scratch;
  const auto told = write_adapter(adapter, to, scratch.path(), options);
  if (notes != nullptr) *notes = told;
  return read_adapter(scratch.path());
}

std::vector<std::string> goldens() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_path("adapters"))) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(WriteAdapter, EveryGoldenInItsOwnFormat) {
  ASSERT_GE(goldens().size(), 27u);
  for (const std::string& name : goldens()) {
    SCOPED_TRACE(name);
    const Adapter adapter = golden_adapter(name), back = through(adapter, adapter.dialect);
    EXPECT_EQ(back.modules, adapter.modules);
    EXPECT_EQ(back.kind, adapter.kind);
    EXPECT_EQ(back.base, adapter.base);
  }
}

TEST(WriteAdapter, TheOtherFormatHoldsTheSameBits) {
  for (const char* name :
       {"mlx_lora", "mlx_last_layer", "mlx_quantized", "mlx_dora", "mlx_dora_quantized", "mlx_twin"}) {
    SCOPED_TRACE(name);
    const Adapter adapter = golden_adapter(name), peft = through(adapter, Dialect::peft);
    EXPECT_EQ(peft.dialect, Dialect::peft);
    EXPECT_EQ(peft.modules, adapter.modules);
    EXPECT_EQ(through(peft, Dialect::mlx, {.layers = 2}).modules, adapter.modules);
  }
  for (const char* name : {"peft_lora", "peft_rslora", "peft_regex", "peft_exclude", "peft_dora", "peft_dora_biased"}) {
    SCOPED_TRACE(name);
    const Adapter adapter = golden_adapter(name);
    EXPECT_EQ(through(adapter, Dialect::mlx).modules, adapter.modules);
  }
  EXPECT_EQ(through(golden_adapter("mlx_head"), Dialect::peft, {.untied_head = true}).modules,
            golden_adapter("mlx_head").modules);
}

TEST(WriteAdapter, ABaseWhosePathIsNotUtf8) {
  Adapter adapter = golden_adapter("mlx_lora");
  adapter.base = "models/caf\xE9";
  for (const Dialect to : {Dialect::mlx, Dialect::peft}) EXPECT_EQ(through(adapter, to).base, "models/caf\uFFFD");
}

double distance(const LowRank& a, const LowRank& b) {
  const ModuleDelta left{a, {}, {}}, right{b, {}, {}};
  const DenseDelta x(left, false, Dialect::peft), y(right, false, Dialect::peft);
  std::vector<double> u(size_t(x.cols())), v(u.size());
  double worst = 0, size = 0;
  for (int r = 0; r < x.rows(); ++r) {
    x.delta(r, u);
    y.delta(r, v);
    for (size_t i = 0; i < u.size(); ++i) {
      worst = std::max(worst, std::abs(u[i] - v[i]));
      size = std::max(size, std::abs(u[i]));
    }
  }
  return worst / size;
}

/// Ranks from 1 to 5 and three scales in one rank and one scale: zeros change nothing, folding rounds B once.
TEST(WriteAdapter, WhatItNeedsUnderneathAndItsDropoutStay) {
  Adapter adapter = golden_adapter("mlx_lora");
  adapter.facts["on_top_of"] = "style:0.5";
  adapter.facts["dropout"] = "0.05";
  for (const Dialect to : {Dialect::mlx, Dialect::peft}) {
    const Adapter back = through(adapter, to);
    EXPECT_EQ(back.facts.at("on_top_of"), "style:0.5") << to_string(to);
    EXPECT_EQ(back.facts.at("dropout"), "0.05") << to_string(to);
  }
}

TEST(WriteAdapter, MlxTakesPatternsByPaddingAndFolding) {
  const Adapter adapter = golden_adapter("peft_patterns");
  std::vector<std::string> notes;
  const Adapter mlx = through(adapter, Dialect::mlx, {}, &notes);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("folded into B"), std::string::npos) << notes[0];
  for (const auto& [path, change] : adapter.modules) {
    const LowRank& low = *mlx.modules.at(path).low_rank;
    EXPECT_EQ(low.rank(), 5) << path;
    EXPECT_LE(distance(*change.low_rank, low), 5 * 0x1p-24)
        << path << ": a sum of at most 5 products, each rounded once";
  }
}

TEST(WriteAdapter, MlxNeedsToKnowWhichLayersAreLast) {
  const Adapter adapter = golden_adapter("peft_layers");  // layer 1 only
  test::expect_error([&] { through(adapter, Dialect::mlx); }, "give the base", "no base");
  EXPECT_EQ(through(adapter, Dialect::mlx, {.layers = 2}).modules, adapter.modules);
  std::vector<std::string> notes;
  const Adapter wider = through(adapter, Dialect::mlx, {.layers = 4}, &notes);
  EXPECT_EQ(wider.modules.size(), 3 * adapter.modules.size());
  EXPECT_NE(notes.at(0).find("4 modules written as zeros"), std::string::npos) << notes[0];
  for (const auto& [path, change] : wider.modules) {
    if (!adapter.modules.contains(path)) {
      EXPECT_EQ(delta_norm(*change.low_rank), 0) << path;
    }
  }
  test::expect_error([&] { through(adapter, Dialect::mlx, {.layers = 1}); }, "expected at most 1", "too few");
  // Of modules that the base is known to have, those alone.
  WriteOptions known{.layers = 4, .modules = {}};
  for (const auto& [path, change] : adapter.modules) known.modules.insert(path);
  known.modules.insert("model.layers.3.self_attn.q_proj");
  const Adapter fewer = through(adapter, Dialect::mlx, known);
  EXPECT_EQ(fewer.modules.size(), adapter.modules.size() + 1);
  EXPECT_TRUE(fewer.modules.contains("model.layers.3.self_attn.q_proj"));
}

/// Under the names of mlx-lm's model of the base, whatever the adapter's own are; keys outside layers too.
TEST(WriteAdapter, NamesModulesAsTheBasesClassInMlxLmDoes) {
  for (const char* name : {"mlx_lora", "mlx_head", "mlx_full", "mlx_dora"}) {
    SCOPED_TRACE(name);
    const Adapter adapter = golden_adapter(name);
    const Adapter inner = through(adapter, Dialect::mlx, {.layers = 2, .prefix = "language_model."});
    ASSERT_EQ(inner.modules.size(), adapter.modules.size());
    for (const auto& [path, change] : adapter.modules) EXPECT_EQ(inner.modules.at("language_model." + path), change);
    EXPECT_EQ(through(inner, Dialect::mlx, {.layers = 2, .prefix = ""}).modules, adapter.modules);
    EXPECT_EQ(through(inner, Dialect::mlx, {.layers = 2}).modules, inner.modules) << "of a base that is not known";
    EXPECT_EQ(through(inner, Dialect::mlx, {.layers = 2, .prefix = "language_model."}).modules, inner.modules);
  }
}

TEST(WriteAdapter, KnowsWhichClassesOfMlxLmHoldTheTextModelAsAPart) {
  for (const char* type : {"gemma3", "gemma4", "gemma4_unified", "mistral3", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe",
                           "qwen3_vl", "qwen3_vl_moe"})
    EXPECT_EQ(mlx_prefix(Json{{"model_type", type}, {"text_config", Json::object()}}), "language_model.") << type;
  EXPECT_EQ(mlx_prefix(Json{{"model_type", "qwen3_5"}}), "language_model.") << "text-only files too";
  for (const char* type : {"gemma2", "gemma3_text", "gemma4_text", "llama", "ministral3", "qwen3", "qwen3_next"})
    EXPECT_EQ(mlx_prefix(Json{{"model_type", type}}), "") << type;
  EXPECT_EQ(mlx_prefix(Json::object()), "");
  EXPECT_EQ(mlx_prefix(std::filesystem::path("/nowhere")), "");
}

TEST(WriteAdapter, RefusesWhatAFormatCannotHold) {
  const auto refused = [](const char* name, Dialect to, const std::string& part) {
    test::expect_error([&] { through(golden_adapter(name), to); }, part, name);
  };
  refused("peft_lora_bias", Dialect::mlx, "no place for a bias of B");
  refused("peft_saved", Dialect::mlx, "no place for whole weights");
  refused("peft_bias_all", Dialect::mlx, "no place for whole weights or biases");
  refused("peft_tied_embedding", Dialect::mlx, "where the head is tied");
  refused("mlx_head", Dialect::peft, "where the head is tied");
  refused("peft_dora_embedding", Dialect::mlx, "normalise a DoRA embedding differently");
  refused("mlx_full", Dialect::peft, "a full fine-tune has no factors");
  test::expect_error([] { write_adapter({}, Dialect::mlx, "/nowhere"); }, "got none", "no modules");
}

/// Layers that differ become whole paths.
TEST(WriteAdapter, PeftNamesWholePathsWhereLayersDiffer) {
  Adapter adapter = golden_adapter("mlx_lora");
  adapter.modules.erase("model.layers.0.self_attn.q_proj");
  const test::TemporaryDirectory scratch;
  write_adapter(adapter, Dialect::peft, scratch.path());
  const Json config = parse_json(test::read_bytes(scratch.path() / "adapter_config.json"), "config");
  EXPECT_EQ(config.at("target_modules").size(), adapter.modules.size());
  EXPECT_EQ(read_adapter(scratch.path()).modules, adapter.modules);
}

}  // namespace
}  // namespace bumblebee::lora
