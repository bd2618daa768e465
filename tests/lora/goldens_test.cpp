// Adapter files of peft and mlx-lm, fused into dense weights by our reader and run by the reference, against the
// float64 logits that both projects agree on (tools/goldens/adapters.py). What run-time application gives is held to
// the same files in the engine's tests.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>

#include "base/mapped_file.h"
#include "io/checkpoint.h"
#include "lora/bind_to_base.h"
#include "lora/dense.h"
#include "lora/read_adapter.h"
#include "quant/elements.h"
#include "tests/models/running.h"
#include "tests/support/adapter_cases.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"

namespace bumblebee::lora {
namespace {

using namespace testing_support;

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
  }

  WeightSource& weights() { return weights_; }
  const Json& config() const { return config_; }

 private:
  void read(const StoredModule& module) {
    const bool dense = module.format.kind == Format::Kind::dense;
    const std::string path = dense ? module.name.substr(0, module.name.rfind(".weight")) : module.name;
    const int cols = int(module.shape.back()), rows = module.shape.size() == 1 ? 1 : int(module.shape.front());
    HostWeight weight{module.format, rows, cols, {}, {}, {}, module.name, nullptr};
    weight.codes = checkpoint_.find(dense ? module.name : path + ".weight").bytes();
    if (!dense) {
      weight.scales = checkpoint_.find(path + ".scales").bytes();
      weight.biases = checkpoint_.find(path + ".biases").bytes();
    }
    std::vector<double> values(size_t(rows) * size_t(cols));
    for (int r = 0; r < rows; ++r)
      decode_row<double>(weight, r, std::span(values).subspan(size_t(r) * size_t(cols), size_t(cols)));
    put(module.shape.size() == 1 ? module.name : path, rows, cols, values, module.shape.size() == 1);
  }

  void put(const std::string& name, int rows, int cols, const std::vector<double>& values, bool vector) {
    const std::vector<float> rounded(values.begin(), values.end());
    const HostWeight weight = dense_weight(rounded, rows, cols, DType::f32);
    vector ? weights_.add_vector(name, weight) : weights_.add_matrix(name, weight);
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

}  // namespace
}  // namespace bumblebee::lora
