// Loading: devices refused first, quantization at load, facts about checkpoints, logits of every position.
#include "bumblebee/model.h"

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "io/checkpoint.h"
#include "quant/affine.h"
#include "tests/engine/engine_test.h"

namespace bumblebee::engine {
namespace {

class ModelOnDevice : public OnDevice {};
INSTANTIATE_TEST_SUITE_P(Devices, ModelOnDevice, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

std::string width(const std::string& name) { return BB_TEST_DATA "/goldens/widths/" + name; }

std::string failure(const std::string& directory, const ModelOptions& options, ErrorCode code) {
  try {
    load_model(local(directory), options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "loaded";
  return "";
}

TEST(LoadModel, RefusesADeviceBeforeReadingWeights) {
  bool progressed = false;
  ModelOptions options;
  options.device = "quantum";
  options.progress = [&](uint64_t, uint64_t) { return progressed = true; };
  const std::string what = failure(width("b4_g64_tied_bf16"), options, ErrorCode::device);
  EXPECT_NE(what.find("quantum"), std::string::npos) << what;
  EXPECT_NE(what.find("matmul"), std::string::npos) << what;
  EXPECT_NE(what.find("ref"), std::string::npos) << what;
  EXPECT_FALSE(progressed);
}

TEST(LoadModel, ReportsProgressAndCanBeCancelled) {
  uint64_t last = 0, all = 0;
  ModelOptions options;
  options.device = "ref";
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    last = done;
    all = total;
    return true;
  };
  load_model(local(golden_model("qwen3")), options);
  EXPECT_GT(all, 0u);
  EXPECT_EQ(last, all);
  options.progress = [](uint64_t, uint64_t) { return false; };
  failure(golden_model("qwen3"), options, ErrorCode::cancelled);
}

TEST(LoadModel, KeepsAWidthAndRefusesAnother) {
  ModelOptions options;
  options.device = "ref";
  options.quantization = Quantization::int4;
  const std::string what = failure(width("b8_g32_tied_f32"), options, ErrorCode::bad_request);
  EXPECT_NE(what.find("int4"), std::string::npos) << what;
  EXPECT_NE(what.find("8 bits"), std::string::npos) << what;

  const Model as_stored = load(width("b4_g64_tied_bf16"), "ref");
  const Model same = load_model(local(width("b4_g64_tied_bf16")), options);
  const std::vector<int32_t> tokens = some_tokens(6, as_stored.info().vocab, 1);
  EXPECT_TRUE(all_logits(same, tokens) == all_logits(as_stored, tokens));
  EXPECT_EQ(same.info().bits, 4);
}

TEST_P(ModelOnDevice, QuantizesWhileLoadingAsTheQuantizerDoes) {
  ModelOptions options;
  options.device = GetParam();
  options.quantization = Quantization::int4;
  options.group_size = 32;
  options.threads = 2;
  const Model quantized = load_model(local(golden_model("llama_f32")), options);
  EXPECT_EQ(quantized.info().bits, 4);
  EXPECT_EQ(quantized.info().group_size, 32);
  const ModelInfo stored = inspect_model(local(golden_model("llama_f32")));
  EXPECT_EQ(stored.bits, 0);
  EXPECT_LT(quantized.info().weight_bytes, stored.weight_bytes / 4);
  EXPECT_EQ(quantized.info().parameters, stored.parameters);

  const std::vector<int32_t> tokens = some_tokens(20, stored.vocab, 5);
  const auto dense = all_logits(load(golden_model("llama_f32"), GetParam()), tokens);
  const auto four = all_logits(quantized, tokens);
  options.quantization = Quantization::int8;
  const auto eight = all_logits(load_model(local(golden_model("llama_f32")), options), tokens);
  const auto distance = [&](const std::vector<std::vector<float>>& other) {
    double gap = 0, size = 0;
    for (size_t r = 0; r < dense.size(); ++r) {
      for (size_t i = 0; i < dense[r].size(); ++i) {
        gap += std::pow(double(dense[r][i]) - other[r][i], 2);
        size += std::pow(double(dense[r][i]), 2);
      }
    }
    return std::sqrt(gap / size);
  };
  EXPECT_GT(distance(four), distance(eight) * 4);
  EXPECT_LT(distance(eight), 0.03);
  EXPECT_LT(distance(four), 0.5);
}

TEST(InspectModel, DescribesModules) {
  const ModelInfo info = inspect_model(local(width("mixed_overrides_bf16")));
  EXPECT_GT(info.parameters, 0u);
  EXPECT_GT(info.bits, 0);
  bool other_width = false;
  for (const ModuleInfo& module : info.modules) {
    EXPECT_GT(module.out * module.in, 0) << module.name;
    EXPECT_GT(module.bytes, 0u) << module.name;
    other_width = other_width || module.bits != info.bits;
  }
  EXPECT_TRUE(other_width);
  EXPECT_EQ(info.kv_bytes(10, KvType::f16), uint64_t(2 * info.layers * info.kv_heads * info.head_dim * 10 * 2));
  // Bytes as planned equal the bytes of the files, without headers.
  const auto checkpoint = Checkpoint::open(width("b4_g64_tied_bf16"));
  uint64_t stored = 0;
  for (const std::string& name : checkpoint->names()) stored += checkpoint->find(name).bytes().size();
  EXPECT_EQ(inspect_model(local(width("b4_g64_tied_bf16"))).weight_bytes, stored);
}

TEST(InspectModel, CountsExperts) {
  const ModelInfo info = inspect_model(local(BB_TEST_DATA "/goldens/experts/qwen3_moe_4bit"));
  EXPECT_EQ(info.architecture, "qwen3_moe");
  EXPECT_EQ(info.experts, 8);
  EXPECT_EQ(info.experts_per_token, 3);
  EXPECT_EQ(info.expert_intermediate, 32);
  uint64_t stacks = 0, others = 0;
  for (const ModuleInfo& module : info.modules) {
    if (module.experts == 8) stacks += module.bytes;
    if (module.experts == 1 && module.name != "model.embed_tokens") others += module.bytes;
    if (module.name.ends_with("mlp.gate")) {
      EXPECT_EQ(module.bits, 8) << module.name;
    }
  }
  EXPECT_EQ(info.active_weight_bytes, others + stacks * 3 / 8);
  const ModelInfo apart = inspect_model(local(BB_TEST_DATA "/goldens/experts/mixtral"));
  EXPECT_EQ(apart.experts, 4);
  EXPECT_LT(apart.active_weight_bytes, apart.weight_bytes);
  EXPECT_EQ(inspect_model(local(golden_model("qwen3"))).experts, 0);
}

/// Stacks and experts that lie apart are quantized alike while a model loads.
TEST(LoadModel, QuantizesExperts) {
  for (const char* name : {"qwen3_moe", "mixtral"}) {
    ModelOptions options;
    options.quantization = Quantization::int4;
    options.group_size = 32;
    options.precision = Precision::exact;
    const Model model = load_model(local(cat(BB_TEST_DATA "/goldens/experts/", name)), options);
    EXPECT_EQ(model.info().bits, 4) << name;
    // What `quantize` writes, as mlx-lm does: the router of Qwen's keeps 8 bits.
    for (const ModuleInfo& module : model.info().modules)
      EXPECT_EQ(module.bits, module.name.ends_with(".mlp.gate") ? 8 : 4) << name << ' ' << module.name;
    const std::vector<int32_t> tokens = {1, 2, 3, 4};
    int rows = 0;
    model.logits(tokens, [&](int, std::span<const float> logits) {
      ++rows;
      for (const float z : logits) ASSERT_TRUE(std::isfinite(z));
    });
    EXPECT_EQ(rows, 4);
  }
}

TEST_P(ModelOnDevice, LogitsOfEveryPositionComeInOrder) {
  const Model model = load(golden_model("qwen3"), GetParam());
  const std::vector<int32_t> tokens = some_tokens(70, model.info().vocab, 8);
  int next = 0;
  model.logits(tokens, [&](int row, std::span<const float> logits) {
    EXPECT_EQ(row, next++);
    EXPECT_EQ(int(logits.size()), model.info().vocab);
  });
  EXPECT_EQ(next, 70);
  const std::vector<int32_t> none, outside = {1, 5000}, many(size_t(model.info().context) + 1, 1);
  for (const auto& bad : {none, outside, many})
    EXPECT_THROW(model.logits(bad, [](int, std::span<const float>) {}), Error);
}

TEST_P(ModelOnDevice, KeepsKvInTheTypeThatWasAskedFor) {
  const std::vector<int32_t> tokens = some_tokens(40, 128, 2);
  ModelOptions options;
  options.device = GetParam();
  options.precision = Precision::exact;
  const Model unrounded = load_model(local(golden_model("llama")), options);
  EXPECT_EQ(unrounded.options().kv_type, KvType::f32) << "chosen by the precision";
  const auto exact = all_logits(unrounded, tokens);
  for (KvType type : {KvType::f16, KvType::bf16, KvType::int8}) {
    options.kv_type = type;
    const Model model = load_model(local(golden_model("llama")), options);
    EXPECT_EQ(model.options().kv_type, type);
    const auto rounded = all_logits(model, tokens);
    // The reference keeps doubles whatever is asked for; everything else must really store the type.
    if (GetParam() == "cpu") {
      EXPECT_TRUE(rounded != exact) << "kept in f32";
    }
    for (size_t i = 0; i < exact.back().size(); ++i) EXPECT_NEAR(rounded.back()[i], exact.back()[i], 0.05);
  }
}

}  // namespace
}  // namespace bumblebee::engine
