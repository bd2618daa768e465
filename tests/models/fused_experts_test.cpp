// Hugging Face's files of Qwen3.5's mixtures and of Gemma 4's have gate and up of all experts in one tensor: the model
// is the one of mlx-lm's files, where they are apart.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/checkpoint_writer.h"
#include "io/quantize_checkpoint.h"
#include "io/quantizing_source.h"
#include "lora/fuse.h"
#include "quant/elements.h"
#include "tests/io/files.h"
#include "tests/models/running.h"
#include "tests/support/random.h"

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

void expect_same_files(const fs::path& left, const fs::path& right) {
  const auto a = Checkpoint::open(left), b = Checkpoint::open(right);
  EXPECT_EQ(a->names(), b->names());
  EXPECT_EQ(*a->config().json, *b->config().json);
  for (const std::string& name : a->names()) {
    const auto one = a->find(name), other = b->find(name);
    EXPECT_EQ(one.tensor->shape, other.tensor->shape) << name;
    EXPECT_TRUE(std::ranges::equal(one.bytes(), other.bytes())) << name;
  }
}

/// Rewritten, they are apart, as mlx-lm's tools have them.
TEST_P(FusedExpertsOf, AreQuantizedApart) {
  for (const bool quantize : {true, false}) {
    RewriteOptions options;
    if (quantize) options.quantize = QuantSpec{4, 32};
    if (!quantize) options.dtype = DType::f32;
    rewrite_checkpoint(apart(), at("apart_again"), options);
    rewrite_checkpoint(fused(), at("fused_again"), options);
    expect_same_files(at("apart_again"), at("fused_again"));
    fs::remove_all(at("apart_again"));
    fs::remove_all(at("fused_again"));
  }
}

/// What adapters may change, by name.
std::map<std::string, nn::TargetModule> targets_of(const fs::path& directory) {
  std::map<std::string, nn::TargetModule> all;
  for (nn::TargetModule& module : lora::base_of(*Checkpoint::open(directory), "base").target_modules)
    all.emplace(module.name, std::move(module));
  return all;
}

/// Adapters that run on them can be written into them: stack by stack, and by PEFT's names of the fused tensors.
TEST_P(FusedExpertsOf, TakeAdapters) {
  const auto modules = targets_of(fused()), others = targets_of(apart());
  EXPECT_EQ(modules.size(), others.size());
  lora::Adapter stacks, parameters;
  parameters.dialect = lora::Dialect::peft;
  Random random(7);
  const auto matrix = [&](int rows, int cols) {
    return lora::Matrix{rows, cols, random.normals(size_t(rows) * size_t(cols), 0.5)};
  };
  const std::string middle = cat(GetParam().stack, ".");
  for (const auto& [name, module] : others) {
    ASSERT_TRUE(modules.contains(name)) << name;
    const nn::TargetModule& other = modules.at(name);
    EXPECT_EQ(std::tie(module.in, module.out, module.kind, module.experts, module.each),
              std::tie(other.in, other.out, other.kind, other.experts, other.each))
        << name;
    const size_t cut = name.find(middle);
    if (cut == std::string::npos) continue;
    const int n = module.experts;
    stacks.modules[name].low_rank = lora::LowRank{matrix(n * 2, module.in), matrix(n * module.out, 2), 1.5f, {}, {}, n};
    if (name.ends_with(".up_proj")) continue;
    const bool gate = name.ends_with(".gate_proj");
    parameters.modules[cat(name.substr(0, cut), ".experts.", gate ? "gate_up_proj" : "down_proj")].low_rank =
        lora::LowRank{matrix(n * 2, module.in), matrix(n * (gate ? 2 : 1) * module.out, 2), 1.5f, {}, {}, n};
  }
  ASSERT_FALSE(stacks.modules.empty());
  for (const lora::Adapter* adapter : {&stacks, &parameters}) {
    const lora::FuseOptions options = {.dtype = DType::f32};
    lora::fuse_checkpoint(apart(), at("apart_again"), *adapter, options);
    const lora::FuseReport report = lora::fuse_checkpoint(fused(), at("fused_again"), *adapter, options);
    EXPECT_EQ(report.losses.size(), stacks.modules.size());
    expect_same_files(at("apart_again"), at("fused_again"));
    if (adapter == &stacks) {
      const auto before = Checkpoint::open(apart()), after = Checkpoint::open(at("fused_again"));
      for (const auto& [name, change] : stacks.modules) {
        const lora::LowRank& low = *change.low_rank;
        const int n = low.experts, out = low.out(), in = low.a.cols;
        const HostWeight old = before->experts(name, n, out, in), made = after->experts(name, n, out, in);
        std::vector<float> was(size_t(in), 0.0f), is(size_t(in), 0.0f);
        for (int row = 0; row < n * out; ++row) {
          decode_row<float>(expert_of(old, row / out), row % out, was);
          decode_row<float>(expert_of(made, row / out), row % out, is);
          for (int c = 0; c < in; ++c) {
            double sum = double(was[size_t(c)]);
            for (int k = 0; k < 2; ++k)
              sum += 1.5 * double(low.b.values[size_t(row * 2 + k)]) *
                     double(low.a.values[size_t((row / out * 2 + k) * in + c)]);
            ASSERT_EQ(is[size_t(c)], float(sum)) << name << ' ' << row << ' ' << c;
          }
        }
      }
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
