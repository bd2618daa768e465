// Adapter files of peft and mlx-lm, fused into dense weights by our reader and run by the reference, against the
// float64 logits that both projects agree on (tools/goldens/adapters.py). What run-time application gives is held to
// the same files in the engine's tests.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/mapped_file.h"
#include "io/checkpoint.h"
#include "lora/bind_to_base.h"
#include "lora/dense.h"
#include "lora/merge.h"
#include "lora/read_adapter.h"
#include "lora/write_adapter.h"
#include "quant/elements.h"
#include "tests/lora/adapter_files.h"
#include "tests/models/running.h"
#include "tests/support/adapter_cases.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"

namespace bumblebee::lora {
namespace {

using namespace testing_support;
using testing::golden_adapter;
using testing::layer;

/// The base's weights as f32, each module changed as the adapter says.
class Fused {
 public:
  Fused(const Checkpoint& checkpoint, const Adapter& adapter) : checkpoint_(checkpoint) {
    config_ = checkpoint.config().text();
    for (const StoredModule& module : checkpoint.modules()) read(module);
    nn::Loader loader(weights_, nullptr);
    const auto model = models::make_model(models::read_spec(config_, "base"), loader);
    weights_.rewind();
    const bool tied = model->dims().tied_head;
    const BoundAdapter bound = bind_to_base(adapter, {model->target_modules(), tied, "base"});
    if (tied) untie();
    for (const auto& [path, change] : bound.modules) apply(path, *change, adapter.dialect);
    for (const auto& [path, experts] : bound.experts) {
      const auto module = std::find_if(model->target_modules().begin(), model->target_modules().end(),
                                       [&, &name = path](const auto& m) { return m.name == name; });
      apply(*module, experts);
    }
  }

  WeightSource& weights() { return weights_; }
  const Json& config() const { return config_; }

 private:
  void read(const StoredModule& module) {
    const bool dense = module.format.kind == Format::Kind::dense;
    const std::string path = dense ? module.name.substr(0, module.name.rfind(".weight")) : module.name;
    const bool stack = module.shape.size() == 3;
    const int cols = int(module.shape.back()),
              rows = module.shape.size() == 1 ? 1 : int(module.shape[0] * (stack ? module.shape[1] : 1));
    HostWeight weight{module.format, rows, cols, {}, {}, {}, module.name, nullptr};
    weight.codes = checkpoint_.find(dense ? module.name : path + ".weight").bytes();
    if (!dense) {
      weight.scales = checkpoint_.find(path + ".scales").bytes();
      weight.biases = checkpoint_.find(path + ".biases").bytes();
    }
    std::vector<double> values(size_t(rows) * size_t(cols));
    for (int r = 0; r < rows; ++r)
      decode_row<double>(weight, r, std::span(values).subspan(size_t(r) * size_t(cols), size_t(cols)));
    put(module.shape.size() == 1 ? module.name : path, rows, cols, values, module.shape.size() == 1,
        stack ? int(module.shape[0]) : 0);
  }

  void put(const std::string& name, int rows, int cols, const std::vector<double>& values, bool vector,
           int experts = 0) {
    const std::vector<float> rounded(values.begin(), values.end());
    const HostWeight weight = dense_weight(rounded, rows, cols, DType::f32);
    if (experts > 0) {
      weights_.add_stack(name, weight, experts);
    } else {
      vector ? weights_.add_vector(name, weight) : weights_.add_matrix(name, weight);
    }
    values_[name] = {rows, cols, values};
  }

  void untie() {
    const auto [rows, cols, values] = values_.at("model.embed_tokens");
    put("lm_head", rows, cols, values, false);
    config_["tie_word_embeddings"] = false;
  }

  void apply(const std::string& path, const ModuleDelta& change, Dialect dialect) {
    if (change.weight || change.low_rank) {
      const bool norm = values_.contains(path + ".weight");
      auto [rows, cols, values] = values_.at(norm ? path + ".weight" : path);
      DenseDelta dense(change, path == "model.embed_tokens", dialect);
      const auto row = [&, c = size_t(cols)](int r) { return std::span(values).subspan(size_t(r) * c, c); };
      if (dense.needs_columns()) {
        for (int r = 0; r < rows; ++r) dense.observe(r, row(r));
      }
      for (int r = 0; r < rows; ++r) dense.change(r, row(r));
      put(norm ? path + ".weight" : path, rows, cols, values, norm);
    }
    if (change.bias) put(path + ".bias", 1, int(change.bias->size()), {change.bias->begin(), change.bias->end()}, true);
    if (!change.low_rank || change.low_rank->b_bias.empty()) return;
    throw Error(ErrorCode::unsupported, path, "lora_bias");  // a bias that the base's config has no place for
  }

  /// As they lie: one stack, or a module for each.
  void apply(const nn::TargetModule& stack, const std::vector<FactorView>& experts) {
    const size_t dot = stack.name.rfind('.');
    if (const std::string whole = stack.name.substr(0, dot) + ".kv_b_proj"; values_.contains(whole))
      return apply_to_whole(whole, stack, experts);
    const bool whole = values_.contains(stack.name);
    for (size_t e = 0; e < experts.size(); ++e) {
      std::string each = stack.each;
      if (!whole) each.replace(each.find('#'), 1, std::to_string(e));
      const std::string& name = whole ? stack.name : each;
      auto [rows, cols, values] = values_.at(name);
      const size_t in = size_t(stack.in), rank = size_t(experts[e].rank), first = whole ? e * size_t(stack.out) : 0;
      for (size_t n = 0; n < size_t(stack.out); ++n) {
        for (size_t k = 0; k < rank; ++k) {
          for (size_t c = 0; c < in; ++c)
            values[(first + n) * in + c] +=
                double(experts[e].scale) * double(experts[e].b[n * rank + k]) * double(experts[e].a[k * in + c]);
        }
      }
      put(name, rows, cols, values, false, whole ? stack.experts : 0);
    }
  }

  /// The rows of kv_b_proj that a head's keys or values are made by; factors of keys are those of the transpose.
  void apply_to_whole(const std::string& name, const nn::TargetModule& heads, const std::vector<FactorView>& views) {
    auto [rows, cols, values] = values_.at(name);
    const bool keys = heads.name.ends_with(".embed_q");
    const size_t own = size_t(keys ? heads.in : heads.out), each = size_t(rows) / views.size(), in = size_t(cols);
    for (size_t h = 0; h < views.size(); ++h) {
      const FactorView& v = views[h];
      const size_t first = h * each + (keys ? 0 : each - own);
      for (size_t i = 0; i < own; ++i) {
        for (size_t c = 0; c < in; ++c) {
          double sum = 0;
          for (size_t k = 0; k < size_t(v.rank); ++k) {
            const size_t rank = size_t(v.rank);
            sum += keys ? double(v.b[c * rank + k]) * double(v.a[k * own + i])
                        : double(v.b[i * rank + k]) * double(v.a[k * in + c]);
          }
          values[(first + i) * in + c] += double(v.scale) * sum;
        }
      }
    }
    put(name, rows, cols, values, false);
  }

  struct Stored {
    int rows = 0, cols = 0;
    std::vector<double> values;
  };
  const Checkpoint& checkpoint_;
  Json config_;
  MemoryWeights weights_;
  std::map<std::string, Stored> values_;
};

class AdapterGolden : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, AdapterGolden, ::testing::ValuesIn(names_of_cases()),
                         [](const auto& p) { return p.param; });

TEST_P(AdapterGolden, FusedLogitsMatch) {
  const std::string name = GetParam();
  const GoldenFile golden("adapters/" + name + "/golden.safetensors");
  const auto checkpoint = Checkpoint::open(golden_path(all_cases().at(name).get<std::string>()));
  const Adapter adapter = read_adapter(golden_path("adapters/" + name));
  if (name == "peft_lora_bias") {
    EXPECT_EQ(adapter.modules.begin()->second.low_rank->b_bias.size(), 96u)
        << "only run-time application has a place for it";
    return;
  }
  if (name.find("gemma") != std::string::npos) {
    EXPECT_GT(adapter.modules.size(), 0u)
        << "its embedding's factor is rounded to the type of the file, f32 once fused";
    return;
  }
  Fused fused(*checkpoint, adapter);
  models::Runner runner(create_reference(), models::read_spec(fused.config(), name), fused.weights(), {});
  const std::vector<float> got = runner.step({{0, golden.at("tokens").ints()}}).front();
  // The reference computes in f64, but for f32 angles (tests/models/goldens_test.cpp: 1e-5); fused weights are rounded
  // once to f32, and as every row of every matrix is off by up to 2^-24 independently, so is the result, times the
  // number of matrices on the way at most.
  const double matrices = 7.0 * fused.config().at("num_hidden_layers").get<double>() + 1;
  EXPECT_LE(relative_to_rms(got, golden.at("logits").doubles()), 1e-5 + matrices * 8 * kRoundF32);
}

TEST(AdapterGoldens, AreAllThere) { EXPECT_GE(names_of_cases().size(), 27u); }

/// The same factors written by peft and as mlx-lm writes them.
TEST(AdapterGoldens, TheTwinsAreTheSameBits) {
  const Adapter peft = read_adapter(golden_path("adapters/peft_lora")),
                mlx = read_adapter(golden_path("adapters/mlx_twin"));
  EXPECT_EQ(peft.modules, mlx.modules);
}

/// Into the other format and back: the same factors, whichever shape experts have there.
TEST(AdapterGoldens, ExpertsGoThereAndBack) {
  const std::pair<const char*, Dialect> cases[] = {{"mlx_experts", Dialect::peft},
                                                   {"mlx_experts_apart", Dialect::peft},
                                                   {"peft_experts", Dialect::mlx},
                                                   {"peft_mixtral_experts", Dialect::mlx}};
  for (const auto& [name, other] : cases) {
    SCOPED_TRACE(name);
    const Adapter adapter = golden_adapter(name);
    const test::TemporaryDirectory there, back;
    write_adapter(adapter, other, there.path(), {.layers = 2});
    const Adapter converted = read_adapter(there.path());
    EXPECT_NE(converted.modules, adapter.modules);
    write_adapter(converted, adapter.dialect, back.path(), {.layers = 2});
    EXPECT_EQ(read_adapter(back.path()).modules, adapter.modules);
  }
  // Of either dialect: what a training saves has stacks whatever its format.
  Adapter stacks = golden_adapter("mlx_experts");
  stacks.dialect = Dialect::peft;
  const test::TemporaryDirectory split;
  write_adapter(stacks, Dialect::peft, split.path());
  EXPECT_TRUE(read_adapter(split.path()).modules.contains(layer(0, "mlp.experts.7.up_proj")));
  const test::TemporaryDirectory nowhere;
  EXPECT_THROW(write_adapter(golden_adapter("peft_parameters"), Dialect::mlx, nowhere.path(), {.layers = 2}), Error);
}

TEST(AdapterGoldens, ExpertsMerge) {
  const Adapter one = golden_adapter("mlx_experts");
  const Adapter sum = merge({{one, 0.5}, {one, 0.25}}).adapter;
  const std::string path = layer(1, "mlp.switch_mlp.up_proj");
  const LowRank &low = *sum.modules.at(path).low_rank, &own = *one.modules.at(path).low_rank;
  EXPECT_EQ(low.experts, own.experts);
  EXPECT_EQ(low.rank(), 2 * own.rank());
  EXPECT_NEAR(delta_norm(low), 0.75 * delta_norm(own), 1e-6 * delta_norm(own));
  Adapter single = golden_adapter("peft_experts");
  try {
    merge({{one, 1}, {single, 1}});
    ADD_FAILURE() << "merged";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("expected all as stacks or all module by module"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace bumblebee::lora
