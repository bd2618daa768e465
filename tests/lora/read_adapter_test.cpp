// The truth table of both readers: what each option of the configs does to the normalised adapter.
#include "lora/read_adapter.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

#include "base/log.h"
#include "tests/lora/adapter_files.h"

namespace bumblebee::lora {
namespace {

using namespace testing;

const std::string kDown1 = layer(1, "mlp.down_proj");

const LowRank& low(const Adapter& adapter, const std::string& path) { return *adapter.modules.at(path).low_rank; }

TEST(ReadMlx, TransposesTheFactorsAndTakesTheScaleAsItIs) {
  Directory d = mlx_directory();
  const Adapter adapter = d.read({.name = "mine"});
  EXPECT_EQ(adapter.dialect, Dialect::mlx);
  EXPECT_EQ(adapter.kind, Kind::lora);
  EXPECT_EQ(adapter.name, "mine");
  EXPECT_EQ(adapter.base, "some/base");
  ASSERT_EQ(adapter.modules.size(), 4u);
  const LowRank& q = low(adapter, kQ0);
  EXPECT_EQ(q.scale, 1.5f);
  EXPECT_EQ(q.rank(), 2);
  ASSERT_EQ(q.a.cols, 4);
  ASSERT_EQ(q.b.rows, 6);
  ASSERT_EQ(q.b.cols, 2);
  const std::vector<float>& a = d.at(kQ0 + ".lora_a").filled();  // [4, 2]
  const std::vector<float>& b = d.at(kQ0 + ".lora_b").filled();  // [2, 6]
  for (size_t k = 0; k < 2; ++k) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(q.a.values[k * 4 + i], a[i * 2 + k]);
    for (size_t o = 0; o < 6; ++o) EXPECT_EQ(q.b.values[o * 2 + k], b[k * 6 + o]);
  }
  EXPECT_EQ(size_bytes(adapter), 4u * 2u * (4 + 6 + 5 + 4) * 2u);
}

TEST(ReadPeft, TakesTheFactorsAsTheyAreAndTheScaleFromAlpha) {
  Directory d = peft_directory();
  const Adapter adapter = d.read();
  EXPECT_EQ(adapter.dialect, Dialect::peft);
  EXPECT_EQ(adapter.name, "adapter") << "the directory's name";
  EXPECT_EQ(adapter.base, "some/base");
  ASSERT_EQ(adapter.modules.size(), 4u);
  EXPECT_EQ(low(adapter, kQ1).scale, 1.5f);
  EXPECT_EQ(low(adapter, kQ1).a.values, d.at(kPeft + kQ1 + ".lora_A.weight").filled());
  EXPECT_EQ(low(adapter, kQ1).b.values, d.at(kPeft + kQ1 + ".lora_B.weight").filled());
}

/// Every scale that is an f32, at every rank: the two formats say the same to the last bit.
TEST(ReadAdapter, BothFormatsGiveTheSameBits) {
  testing_support::Random random(7);
  for (const int rank : {1, 2, 3, 5, 7, 8, 16, 24, 64, 100, 256}) {
    const float scale = float(random.normal(10));
    Directory mlx = mlx_directory(), peft = peft_directory();
    mlx.tensors.clear();
    peft.tensors.clear();
    const std::vector<float> a = random.normals(size_t(rank) * 4, 1), b = random.normals(size_t(rank) * 4, 1);
    std::vector<float> a_turned(a.size()), b_turned(b.size());
    for (size_t k = 0; k < size_t(rank); ++k) {
      for (size_t i = 0; i < 4; ++i) {
        a_turned[i * size_t(rank) + k] = a[k * 4 + i];
        b_turned[k * 4 + i] = b[i * size_t(rank) + k];
      }
    }
    const auto r = uint64_t(rank);
    mlx.tensors = {{kQ0 + ".lora_a", {4, r}, DType::f32, a_turned}, {kQ0 + ".lora_b", {r, 4}, DType::f32, b_turned}};
    peft.tensors = {{kPeft + kQ0 + ".lora_A.weight", {r, 4}, DType::f32, a},
                    {kPeft + kQ0 + ".lora_B.weight", {4, r}, DType::f32, b}};
    mlx.config["lora_parameters"]["rank"] = rank;
    mlx.config["lora_parameters"]["scale"] = scale;
    peft.config["r"] = rank;
    peft.config["lora_alpha"] = double(scale) * rank;
    EXPECT_EQ(mlx.read().modules, peft.read().modules) << rank;
  }
}

TEST(ReadAdapter, WidensEveryFloatTypeExactly) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Directory d = peft_directory();
    for (Tensor& tensor : d.tensors) {
      tensor.dtype = dtype;
      tensor.values.resize(tensor.size());
      for (size_t i = 0; i < tensor.values.size(); ++i) tensor.values[i] = float(int(i) - 3) / 4;
    }
    EXPECT_EQ(low(d.read(), kQ0).a.values, d.at(kPeft + kQ0 + ".lora_A.weight").values);
  }
}

TEST(ReadAdapter, TheCallersScaleReplacesEveryOther) {
  Directory d = peft_directory();
  d.config["alpha_pattern"] = {{"q_proj", 100}};
  const Adapter adapter = d.read({.scale = 0.25f});
  for (const auto& [path, change] : adapter.modules) EXPECT_EQ(change.low_rank->scale, 0.25f) << path;
  Directory missing = mlx_directory();
  missing.config["lora_parameters"].erase("scale");
  EXPECT_EQ(low(missing.read({.scale = 2.0f}), kQ0).scale, 2.0f);
  EXPECT_THROW(missing.read(), Error);
  EXPECT_THROW(missing.read({.scale = NAN}), Error);
}

TEST(ReadMlx, OptionsOfTheConfig) {
  Directory d = mlx_directory();
  for (const char* key : {"keys", "rank", "dropout"}) {
    Directory less = d;
    less.config["lora_parameters"].erase(key);
    EXPECT_EQ(less.read().modules.size(), 4u) << key;
  }
  for (const int layers : {-1, 0, 2, 16}) {
    d.config["num_layers"] = layers;
    EXPECT_EQ(d.read().modules.size(), 4u) << layers;
  }
  d.config.erase("num_layers");
  d.config["lora_layers"] = 2;  // until October 2024
  d.config.erase("fine_tune_type");
  EXPECT_EQ(d.read().facts.at("num_layers"), "2");
  EXPECT_EQ(d.read().kind, Kind::lora);
}

/// What each release of mlx-lm wrote by its defaults (scale 10 and alpha 16 at rank 8), and multiplied by. The keys are
/// those of the releases on PyPI.
TEST(ReadMlx, TheKeysSayWhichVersionMultipliedByWhat) {
  const std::vector<std::string> common = {"model",
                                           "train",
                                           "data",
                                           "seed",
                                           "batch_size",
                                           "iters",
                                           "val_batches",
                                           "learning_rate",
                                           "steps_per_report",
                                           "steps_per_eval",
                                           "resume_adapter_file",
                                           "adapter_path",
                                           "save_every",
                                           "test",
                                           "test_batches",
                                           "max_seq_length",
                                           "config",
                                           "grad_checkpoint",
                                           "lr_schedule"};
  const auto scale = [&](const std::vector<std::string>& keys, bool alpha, const ReadOptions& options = {}) {
    Directory d = mlx_directory();
    d.config = Json::object();
    for (const std::string& key : common) d.config[key] = nullptr;
    for (const std::string& key : keys) d.config[key] = nullptr;
    for (const char* key : {"num_layers", "lora_layers"}) {
      if (d.config.contains(key)) d.config[key] = 2;
    }
    if (d.config.contains("fine_tune_type")) d.config["fine_tune_type"] = "lora";
    if (d.config.contains("use_dora")) d.config["use_dora"] = false;
    d.config["lora_parameters"] = {{"rank", 2}, {"dropout", 0.0}, {"scale", 10.0}};
    if (alpha) d.config["lora_parameters"]["alpha"] = 4;
    return low(d.read(options), kQ0).scale;
  };
  EXPECT_EQ(scale({"lora_layers"}, true), 20) << "0.6 to 0.13.0: scale·alpha/rank";
  EXPECT_THROW(scale({"lora_layers", "use_dora"}, true), Error) << "0.14 to 0.18: the same keys before and after";
  EXPECT_EQ(scale({"lora_layers", "use_dora"}, true, {.scale = 20.0f}), 20) << "the caller knows";
  EXPECT_EQ(scale({"num_layers", "fine_tune_type"}, true), 10) << "0.19 to 0.22.2: alpha stood in the defaults";
  EXPECT_EQ(scale({"num_layers", "fine_tune_type", "optimizer", "mask_prompt"}, false), 10) << "since 0.22.3";
  EXPECT_EQ(scale({"num_layers"}, true), 10) << "written by hand, and no older";
}

TEST(ReadMlx, AnAlphaThatChangesNothingIsAccepted) {
  Directory d = mlx_directory();
  d.config = {{"lora_layers", 2}, {"lora_parameters", {{"scale", 1.5}, {"alpha", 2}}}};  // the rank
  EXPECT_EQ(low(d.read(), kQ0).scale, 1.5f);
  d.config["lora_parameters"]["alpha"] = 16;
  EXPECT_THROW(d.read(), Error);
  EXPECT_EQ(low(d.read({.scale = 12.0f}), kQ0).scale, 12.0f) << "the caller knows";
}

/// Until 2024 mlx-lm wrote the config anew even to measure, so that the tensors alone say what was trained.
TEST(ReadMlx, MoreLayersThanTheConfigSaysAreAllApplied) {
  Directory d = mlx_directory();
  d.config["num_layers"] = 1;
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  const Adapter adapter = d.read();
  set_log_sink({});
  EXPECT_EQ(adapter.modules, mlx_directory().read().modules);
  EXPECT_FALSE(adapter.targets) << "the config does not say what was trained";
  EXPECT_NE(told.find("'num_layers' is 1, but "), std::string::npos) << told;
  EXPECT_NE(told.find("has layers 0 to 1: all of them are applied"), std::string::npos) << told;
}

TEST(ReadMlx, ParametersThatMlxLmDoesNotReadAreLeftOut) {
  Directory d = mlx_directory();
  d.config["lora_parameters"]["bias"] = "none";
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  EXPECT_EQ(d.read().modules, mlx_directory().read().modules);
  set_log_sink({});
  EXPECT_NE(told.find("unknown key 'bias': \"none\": left out"), std::string::npos) << told;
}

/// Numbered snapshots of a training lie beside its config.
TEST(ReadAdapter, ASnapshotOfATrainingIsNamedByItsFile) {
  const test::TemporaryDirectory scratch;
  for (Directory d : {mlx_directory(), peft_directory()}) {
    d.write(scratch.path() / "run");
    const std::filesystem::path file = scratch.path() / "run" / "0000100_adapters.safetensors";
    std::filesystem::rename(scratch.path() / "run" / d.file, file);
    const Adapter adapter = read_adapter(file);
    EXPECT_EQ(adapter.modules, d.read().modules);
    EXPECT_EQ(adapter.name, "0000100_adapters.safetensors");
    EXPECT_THROW(read_adapter(scratch.path() / "run"), Error);
    std::filesystem::remove(file);
  }
}

TEST(ReadMlx, DoraHasMagnitudes) {
  Directory d = mlx_directory();
  d.config["fine_tune_type"] = "dora";
  for (int i = 0; i < 2; ++i) {
    d.tensors.push_back({layer(i, "self_attn.q_proj.m"), {6}, DType::f32, {}});
    d.tensors.push_back({layer(i, "mlp.down_proj.m"), {4}, DType::f32, {}});
  }
  EXPECT_EQ(d.read().kind, Kind::dora);
  EXPECT_EQ(low(d.read(), kQ0).magnitude, d.at(kQ0 + ".m").filled());
  d.config.erase("fine_tune_type");
  d.config["use_dora"] = true;  // until fine_tune_type
  EXPECT_EQ(d.read().kind, Kind::dora);
}

TEST(ReadMlx, FullFilesReplaceParameters) {
  Directory d = mlx_directory();
  d.config["fine_tune_type"] = "full";
  d.config["lora_parameters"] = nullptr;
  d.tensors = {{kQ1 + ".weight", {6, 4}, DType::bf16, {}},
               {kQ1 + ".bias", {6}, DType::f32, {}},
               {layer(1, "input_layernorm.weight"), {4}, DType::f32, {}}};
  const Adapter adapter = d.read();
  EXPECT_EQ(adapter.kind, Kind::full);
  test::expect_error([&] { d.read({.scale = 2.0f}); }, "no factors to scale", "scale");
  EXPECT_EQ(adapter.modules.at(kQ1).weight->rows, 6);
  EXPECT_EQ(*adapter.modules.at(kQ1).bias, d.at(kQ1 + ".bias").filled());
  const Matrix& norm = *adapter.modules.at(layer(1, "input_layernorm")).weight;
  EXPECT_EQ(norm.rows, 1);
  EXPECT_EQ(norm.values, d.at(layer(1, "input_layernorm.weight")).filled());
}

TEST(ReadPeft, RankAndAlphaPatternsInTheFilesOrder) {
  Directory d = peft_directory();
  d.at(kPeft + kQ1 + ".lora_A.weight").shape = {3, 4};
  d.at(kPeft + kQ1 + ".lora_B.weight").shape = {6, 3};
  d.config["rank_pattern"] = {{"layers.1.self_attn.q_proj", 3}};
  d.config["alpha_pattern"] = {{".*\\.1\\..*", 9}, {"down_proj", 5}};
  const Adapter adapter = d.read();
  EXPECT_EQ(low(adapter, kQ0).scale, 1.5f);
  EXPECT_EQ(low(adapter, kQ1).scale, 3.0f);
  EXPECT_EQ(low(adapter, kDown1).scale, 4.5f) << "the first pattern that matches";
  EXPECT_EQ(low(adapter, layer(0, "mlp.down_proj")).scale, 2.5f);
  d.config["use_rslora"] = true;
  EXPECT_EQ(low(d.read(), kQ1).scale, float(9 / std::sqrt(3.0)));
}

TEST(ReadPeft, EveryWayToNameTargets) {
  const Json ways[] = {Json{"q_proj", "down_proj"},
                       Json{kQ0, kQ1, "mlp.down_proj"},
                       Json(".*\\.(q_proj|down_proj)"),
                       Json("all-linear"),
                       Json{"all-linear"},
                       Json(nullptr)};
  for (const Json& way : ways) {
    Directory d = peft_directory();
    d.config["target_modules"] = way;
    EXPECT_EQ(d.read().modules.size(), 4u) << way;
  }
  Directory d = peft_directory();
  d.config["layers_to_transform"] = {0, 1};
  d.config["layers_pattern"] = "layers";
  EXPECT_EQ(d.read().modules.size(), 4u);
  d.config["layers_to_transform"] = Json::array();
  EXPECT_EQ(d.read().modules.size(), 4u);
  d.config["exclude_modules"] = {"k_proj"};
  EXPECT_EQ(d.read().modules.size(), 4u);
}

TEST(ReadPeft, DoraOldAndNew) {
  for (const char* leaf : {".lora_magnitude_vector", ".lora_magnitude_vector.weight"}) {
    Directory d = peft_directory();
    d.config["use_dora"] = true;
    for (int i = 0; i < 2; ++i) {
      d.tensors.push_back({kPeft + layer(i, "self_attn.q_proj") + leaf, {6}, DType::f32, {}});
      d.tensors.push_back({kPeft + layer(i, "mlp.down_proj") + leaf, {4}, DType::f32, {}});
    }
    const Adapter adapter = d.read();
    EXPECT_EQ(adapter.kind, Kind::dora);
    EXPECT_EQ(low(adapter, kQ0).magnitude, d.at(kPeft + kQ0 + leaf).filled());
  }
}

TEST(ReadPeft, EmbeddingsHeadBiasesAndSavedModules) {
  Directory d = peft_directory();
  d.config["target_modules"] = {"q_proj", "down_proj", "embed_tokens"};
  d.config["modules_to_save"] = {"lm_head", "norm"};
  d.config["bias"] = "lora_only";
  d.tensors.push_back({kPeft + "model.embed_tokens.lora_embedding_A", {2, 9}, DType::f32, {}});
  d.tensors.push_back({kPeft + "model.embed_tokens.lora_embedding_B", {4, 2}, DType::f32, {}});
  d.tensors.push_back({kPeft + "model.embed_tokens.base_layer.weight", {9, 4}, DType::f32, {}});
  d.tensors.push_back({kPeft + "lm_head.weight", {9, 4}, DType::f32, {}});
  d.tensors.push_back({kPeft + "model.norm.weight", {4}, DType::f32, {}});
  d.tensors.push_back({kPeft + kQ0 + ".base_layer.bias", {6}, DType::f32, {}});
  const Adapter adapter = d.read();
  const ModuleDelta& embedding = adapter.modules.at("model.embed_tokens");
  EXPECT_EQ(embedding.low_rank->a.cols, 9);
  EXPECT_EQ(embedding.weight->rows, 9);
  EXPECT_TRUE(embedding.shared_weight);
  EXPECT_FALSE(adapter.modules.at("lm_head").shared_weight);
  EXPECT_FALSE(adapter.modules.at("lm_head").low_rank);
  EXPECT_EQ(adapter.modules.at("model.norm").weight->rows, 1);
  EXPECT_EQ(*adapter.modules.at(kQ0).bias, d.at(kPeft + kQ0 + ".base_layer.bias").filled());
}

TEST(ReadPeft, BiasInsideB) {
  Directory d = peft_directory();
  d.config["lora_bias"] = true;
  for (int i = 0; i < 2; ++i) {
    d.tensors.push_back({kPeft + layer(i, "self_attn.q_proj.lora_B.bias"), {6}, DType::f32, {}});
    d.tensors.push_back({kPeft + layer(i, "mlp.down_proj.lora_B.bias"), {4}, DType::f32, {}});
  }
  EXPECT_EQ(low(d.read(), kQ0).b_bias, d.at(kPeft + kQ0 + ".lora_B.bias").filled());
}

TEST(ReadPeft, KeysThatChangeNothingAreIgnored) {
  Directory d = peft_directory();
  for (const char* key : {"megatron_core", "auto_mapping", "revision", "peft_version", "unsloth_version", "_note"})
    d.config[key] = "x";
  for (const char* key : {"fan_in_fan_out", "inference_mode"}) d.config[key] = true;
  for (const char* key : {"trainable_token_indices", "layer_replication", "target_parameters", "something_new"})
    d.config[key] = nullptr;
  d.config["loftq_config"] = Json::object();
  d.config["use_something_new"] = false;
  d.config["qalora_group_size"] = 16;
  for (const Json& init : {Json(true), Json(false), Json("gaussian"), Json("eva"), Json("orthogonal"), Json(nullptr)}) {
    d.config["init_lora_weights"] = init;
    EXPECT_EQ(d.read().modules, peft_directory().read().modules) << init;
  }
}

}  // namespace
}  // namespace bumblebee::lora
