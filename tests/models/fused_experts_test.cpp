// Hugging Face's files of Qwen3.5's mixtures and of Gemma 4's have gate and up of all experts in one tensor: the model
// is the one of mlx-lm's files, where they are apart.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/checkpoint_writer.h"
#include "io/quantize_checkpoint.h"
#include "io/quantizing_source.h"
#include "tests/io/files.h"
#include "tests/models/running.h"

namespace bumblebee::models {
namespace {

using namespace testing_support;
using test::expect_error;
using test::TemporaryDirectory;
namespace fs = std::filesystem;

struct Case {
  const char *golden, *stack;
};
class FusedExpertsOf : public testing::TestWithParam<Case> {
 protected:
  FusedExpertsOf() {
    RewriteOptions options;
    options.dequantize = true;
    rewrite_checkpoint(std::string(BB_TEST_DATA) + "/goldens/" + GetParam().golden, apart(), options);
    fuse();
  }
  fs::path apart() const { return directory_.path() / "apart"; }
  fs::path fused() const { return directory_.path() / "fused"; }
  fs::path at(const std::string& name) const { return directory_.path() / name; }

 private:
  /// The same tensors, with stacks as Hugging Face's files have them.
  void fuse() {
    const auto checkpoint = Checkpoint::open(apart());
    std::vector<std::pair<TensorSpec, std::string>> tensors;
    const auto bytes = [&](const std::string& name) {
      const auto found = checkpoint->find(name).bytes();
      return std::string(reinterpret_cast<const char*>(found.data()), found.size());
    };
    const std::string middle = GetParam().stack, gate = ".gate_proj.weight", up = ".up_proj.weight",
                      down = ".down_proj.weight";
    for (const std::string& name : checkpoint->names()) {
      const TensorEntry& entry = *checkpoint->find(name).tensor;
      const size_t cut = name.find(middle);
      if (cut == std::string::npos) {
        tensors.push_back({entry, bytes(name)});
        continue;
      }
      const std::string block = name.substr(0, cut), leaf = name.substr(cut + middle.size());
      if (leaf == down) tensors.push_back({{block + ".experts.down_proj", entry.dtype, entry.shape}, bytes(name)});
      if (leaf != gate) continue;
      const std::string first = bytes(name), second = bytes(block + middle + up);
      const size_t one = first.size() / entry.shape[0];
      std::string both;
      for (size_t e = 0; e < entry.shape[0]; ++e) both += first.substr(e * one, one) + second.substr(e * one, one);
      tensors.push_back(
          {{block + ".experts.gate_up_proj", entry.dtype, {entry.shape[0], 2 * entry.shape[1], entry.shape[2]}}, both});
    }
    fs::create_directories(fused());
    fs::copy_file(apart() / "config.json", fused() / "config.json");
    std::vector<TensorView> views;
    for (const auto& [spec, data] : tensors) views.push_back({spec, test::as_bytes(data)});
    write_safetensors(fused() / "model.safetensors", views);
  }

  TemporaryDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(Families, FusedExpertsOf,
                         testing::Values(Case{"delta/qwen3_5_moe_4bit", ".switch_mlp"},
                                         Case{"gemma/gemma4_moe_4bit", ".experts.switch_glu"}),
                         [](const auto& p) { return std::string(p.param.golden).substr(6, 5); });

std::vector<std::vector<float>> logits(const Target& target, const fs::path& directory, int bits = 0) {
  const auto checkpoint = Checkpoint::open(directory);
  const ModelSpec spec = read_spec(checkpoint->config().text(), "config.json");
  const std::vector<int32_t> tokens = random_tokens(3, 9, 32);
  ThreadPool pool(1);
  QuantizingSource quantizing(*checkpoint, checkpoint->config(), bits, 32, &pool);
  WeightSource& source = bits == 0 ? static_cast<WeightSource&>(*checkpoint) : quantizing;
  return Runner(target.create(), spec, source, {}).step({{0, tokens}});
}

TEST_P(FusedExpertsOf, GiveTheSameBits) {
  for (const Target& target : every_target()) {
    if (target.options.threads > 1 || lacks(target.backend, Operation::matmul_experts) || target.backend == "cuda")
      continue;
    EXPECT_EQ(logits(target, fused()), logits(target, apart())) << target.name();
  }
  const Target reference = every_target().front();
  EXPECT_EQ(logits(reference, fused(), 4), logits(reference, apart(), 4));  // quantized on loading
}

/// Rewritten, they are apart, as mlx-lm's tools have them.
TEST_P(FusedExpertsOf, AreQuantizedApart) {
  for (const bool quantize : {true, false}) {
    RewriteOptions options;
    if (quantize) options.quantize = QuantSpec{4, 32};
    if (!quantize) options.dtype = DType::f32;
    rewrite_checkpoint(apart(), at("apart_again"), options);
    rewrite_checkpoint(fused(), at("fused_again"), options);
    const auto a = Checkpoint::open(at("apart_again")), b = Checkpoint::open(at("fused_again"));
    EXPECT_EQ(a->names(), b->names());
    EXPECT_EQ(*a->config().json, *b->config().json);
    for (const std::string& name : a->names()) {
      const auto left = a->find(name), right = b->find(name);
      EXPECT_EQ(left.tensor->shape, right.tensor->shape) << name;
      EXPECT_TRUE(std::ranges::equal(left.bytes(), right.bytes())) << name;
    }
    fs::remove_all(at("apart_again"));
    fs::remove_all(at("fused_again"));
  }
}

TEST_P(FusedExpertsOf, AreReadInTheirOwnShapeOnly) {
  const auto checkpoint = Checkpoint::open(fused());
  std::string name;
  for (const std::string& tensor : checkpoint->names())
    if (tensor.ends_with(".gate_up_proj")) name = tensor;
  ASSERT_FALSE(name.empty());
  const std::vector<FusedExperts> stacks = fused_experts(name, checkpoint->config());
  ASSERT_EQ(stacks.size(), 2u);
  const std::string gate = checkpoint->plain(stacks[0].module), up = checkpoint->plain(stacks[1].module);
  const auto& shape = checkpoint->find(name).tensor->shape;
  const int experts = int(shape[0]), out = int(shape[1]) / 2, in = int(shape[2]);
  const HostWeight first = checkpoint->experts(gate, experts, out, in),
                   second = checkpoint->experts(up, experts, out, in);
  EXPECT_EQ(first.stack_rows, 2 * out);
  const size_t matrix = size_t(out) * row_bytes(first.format, in);
  for (int e = 0; e < experts; ++e) {
    EXPECT_EQ(expert_of(first, e).codes.data(), first.codes.data() + 2 * size_t(e) * matrix);
    EXPECT_EQ(expert_of(second, e).codes.data(), first.codes.data() + (2 * size_t(e) + 1) * matrix);
    EXPECT_EQ(expert_of(first, e).codes.size(), matrix);
    EXPECT_EQ(expert_of(second, e).codes.size(), matrix);
  }
  const auto expected = [&](int e, int o, int i) { return cat("'", name, "': expected [", e, ", ", o, ", ", i, "]"); };
  expect_error([&] { checkpoint->experts(gate, experts, out + 1, in); }, expected(experts, 2 * out + 2, in), "rows");
  expect_error([&] { checkpoint->experts(up, experts + 1, out, in); }, expected(experts + 1, 2 * out, in), "experts");
  expect_error([&] { checkpoint->experts(up, experts, out, 2 * in); }, expected(experts, 2 * out, 2 * in), "inputs");
}

/// Others have tensors of this name with the rows in turns, or transposed.
TEST(FusedExperts, AreThoseOfTheirFamilies) {
  const auto stacks = [](const char* family, const char* name) {
    const HfConfig config = HfConfig::parse(cat(R"({"model_type":")", family, R"("})"), "config.json");
    std::string all;
    for (const FusedExperts& f : fused_experts(name, config)) all += cat(f.module, " ", f.part, "/", f.parts, " ");
    return all;
  };
  EXPECT_EQ(stacks("qwen3_5_moe", "a.mlp.experts.gate_up_proj"),
            "a.mlp.switch_mlp.gate_proj 0/2 a.mlp.switch_mlp.up_proj 1/2 ");
  EXPECT_EQ(stacks("qwen3_5_moe", "a.mlp.experts.down_proj"), "a.mlp.switch_mlp.down_proj 0/1 ");
  EXPECT_EQ(stacks("gemma4_text", "a.experts.down_proj"), "a.experts.switch_glu.down_proj 0/1 ");
  for (const char* name :
       {"a.mlp.gate_up_proj", "a.mlp.experts.gate_up_proj_bias", "a.mlp.experts.0.down_proj", "down_proj", ""})
    EXPECT_EQ(stacks("qwen3_5_moe", name), "") << name;
  for (const char* family : {"gpt_oss", "qwen3_vl_moe", "qwen3_moe"})
    EXPECT_EQ(stacks(family, "a.mlp.experts.gate_up_proj"), "") << family;
}

}  // namespace
}  // namespace bumblebee::models
