// Fused checkpoints: dense ones give the goldens' logits, quantized ones say what they lost.
#include "lora/fuse.h"

#include <gtest/gtest.h>

#include "lora/read_adapter.h"
#include "tests/io/files.h"
#include "tests/models/running.h"
#include "tests/support/golden_file.h"
#include "tests/support/tolerance.h"

namespace bumblebee::lora {
namespace {

using testing_support::golden_path;
using testing_support::GoldenFile;

constexpr const char* kQuantized = "widths/b4_g64_tied_bf16";

double error_of(const std::filesystem::path& directory, const std::string& name) {
  const GoldenFile file("adapters/" + name + "/golden.safetensors");
  const auto checkpoint = Checkpoint::open(directory);
  models::Runner runner(testing_support::create_reference(), models::read_spec(checkpoint->config().text(), name),
                        *checkpoint, {});
  return testing_support::relative_to_rms(runner.step({{0, file.at("tokens").ints()}}).front(),
                                          file.at("logits").doubles());
}

TEST(Fuse, IntoDenseWeightsGivesTheGoldens) {
  const std::pair<const char*, const char*> cases[] = {
      {"mlx_quantized", kQuantized},
      {"mlx_tied_embedding", kQuantized},
      {"mlx_dora_quantized", kQuantized},
      {"peft_embedding", "models/qwen3"},
      {"peft_saved", "models/qwen3"},
      {"peft_bias_all", "models/qwen2"},
      {"peft_dora", "models/qwen3"},
      {"mlx_full", "models/qwen2"},
      {"mlx_dora_tied_embedding", "models/qwen2"},
      {"mlx_experts", "experts/qwen3_moe_4bit"},
      {"mlx_experts_apart", "experts/mixtral"},
      {"mlx_shared_expert", "experts/qwen2_moe_mixed_widths"},
      {"peft_experts", "experts/qwen3_moe"},
      {"peft_mixtral_experts", "experts/mixtral"},
      {"peft_parameters", "experts/qwen3_moe"},
      {"peft_mixtral_parameters", "experts/mixtral"},
  };
  for (const auto& [name, base] : cases) {
    SCOPED_TRACE(name);
    const test::TemporaryDirectory scratch;
    const FuseReport report = fuse_checkpoint(golden_path(base), scratch.path(), golden_adapter(name),
                                              {.dequantize = true, .dtype = DType::f32});
    // As in goldens_test: f32 angles, and one rounding of each weight.
    EXPECT_LE(error_of(scratch.path(), name), 1e-5 + 15 * 8 * testing_support::kRoundF32);
    ASSERT_FALSE(report.losses.empty());
    for (const FuseLoss& loss : report.losses) {
      EXPECT_LE(loss.error, 0x1p-24 * (loss.weight + loss.change)) << loss.module;
    }
  }
}

/// `from` as the text half of a model with vision: every name of the model after `model`, the head as `head`.
void package(const std::string& from, const std::filesystem::path& to, const std::string& model,
             const std::string& head) {
  const auto checkpoint = Checkpoint::open(golden_path(from));
  const float eye = 1;
  std::vector<TensorView> views = {
      {{"vision_tower.proj.weight", DType::f32, {1, 1}}, std::as_bytes(std::span(&eye, 1))}};
  for (const std::string& name : checkpoint->names()) {
    const Checkpoint::Found found = checkpoint->find(name);
    const bool inside = name.starts_with("model.");
    views.push_back({{inside ? model + name.substr(std::string("model.").size()) : head + name, found.tensor->dtype,
                      found.tensor->shape},
                     found.bytes()});
  }
  std::filesystem::create_directories(to);
  write_safetensors(to / "model.safetensors", views);
  std::filesystem::copy_file(std::filesystem::path(golden_path(from)) / "config.json", to / "config.json");
}

TEST(Fuse, IntoEveryPackagingOfAModelWithVision) {
  const std::pair<const char*, const char*> packagings[] = {
      {"language_model.model.", "language_model."}, {"language_model.model.", ""}, {"model.language_model.", ""}};
  for (const auto& [model, head] : packagings) {
    for (const char* name : {"peft_saved", "peft_embedding", "mlx_head"}) {
      SCOPED_TRACE(cat(model, "|", head, "|", name));
      const test::TemporaryDirectory scratch;
      const Adapter adapter = golden_adapter(name);
      package("models/qwen3", scratch.path() / "base", model, head);
      const FuseReport report =
          fuse_checkpoint(scratch.path() / "base", scratch.path() / "out", adapter, {.dtype = DType::f32});
      EXPECT_LE(error_of(scratch.path() / "out", name), 1e-5 + 15 * 8 * testing_support::kRoundF32);
      ASSERT_EQ(report.losses.size(), adapter.modules.size());
      for (const FuseLoss& loss : report.losses)
        EXPECT_TRUE(adapter.modules.contains(loss.module)) << "reported by the model's name: " << loss.module;
    }
  }
}

TEST(Fuse, BackIntoFourBitsSaysWhatItLoses) {
  const Adapter adapter = golden_adapter("mlx_quantized");
  const test::TemporaryDirectory scratch;
  const FuseReport report = fuse_checkpoint(golden_path(kQuantized), scratch.path(), adapter, {});
  const auto before = Checkpoint::open(golden_path(kQuantized)), after = Checkpoint::open(scratch.path());
  ASSERT_EQ(report.losses.size(), adapter.modules.size());
  for (const FuseLoss& loss : report.losses) {
    EXPECT_TRUE(adapter.modules.contains(loss.module)) << loss.module;
    // 15 steps over a group's range of about six deviations: an error of 6/15/sqrt(12) of a deviation.
    EXPECT_GT(loss.relative(), 0.01) << loss.module;
    EXPECT_LT(loss.error / loss.weight, 0.5) << loss.module;
  }
  for (const StoredModule& module : before->modules()) {
    const bool same = adapter.modules.contains(module.name) ? module.format == after->quantized_format(module.name)
                      : module.format.kind == Format::Kind::dense
                          ? true
                          : std::ranges::equal(before->find(module.name + ".weight").bytes(),
                                               after->find(module.name + ".weight").bytes());
    EXPECT_TRUE(same) << module.name;
  }
  EXPECT_GT(error_of(scratch.path(), "mlx_quantized"), 1e-3) << "and the logits tell the same";
}

TEST(Fuse, RefusesWhatACheckpointCannotHold) {
  const auto refused = [](const char* name, const char* base, const std::string& part) {
    const test::TemporaryDirectory scratch;
    test::expect_error([&] { fuse_checkpoint(golden_path(base), scratch.path() / "out", golden_adapter(name), {}); },
                       part, name);
    EXPECT_FALSE(std::filesystem::exists(scratch.path() / "out"));
  };
  refused("peft_lora_bias", "models/qwen3", "the base has no bias here");
  refused("peft_tied_embedding", "models/qwen2", "tied to its embedding");
  refused("peft_saved_tied", "models/qwen2", "tied to its embedding");
  refused("peft_dora_embedding", "models/qwen3", "cannot be fused row by row");
  refused("mlx_lora", "models/qwen2", "does not fit the base");
}

TEST(Fuse, SitesOfACheckpointAreThoseOfItsModel) {
  for (const char* name : {"models/qwen3", "models/qwen2", "models/llama_biased", kQuantized, "experts/qwen3_moe_4bit",
                           "experts/qwen3_moe_packaged_4bit", "experts/qwen2_moe_mixed_widths", "experts/mixtral_4bit",
                           "mla/deepseek_v2", "mla/deepseek_v3_4bit", "mla/glm4_moe_lite"}) {
    const auto checkpoint = Checkpoint::open(golden_path(name));
    nn::Loader load(*checkpoint, nullptr);
    const auto model = models::make_model(models::read_spec(checkpoint->config().text(), name), load);
    const auto listed = Checkpoint::open(golden_path(name));
    std::map<std::string, int> inputs;
    for (const nn::TargetModule& module : model->target_modules())
      inputs[module.name] = module.kind == nn::TargetModule::Kind::embedding ? module.out : module.in;
    listed->set_inputs(inputs);  // one of them has a router whose width only its shapes say
    const Base base = base_of(*listed, name);
    EXPECT_EQ(base.tied_head, model->dims().tied_head) << name;
    // One matrix in the file, which can be changed there, of what is two at run time.
    const bool whole = checkpoint->has_module("model.layers.0.self_attn.kv_b_proj");
    const auto made = [&](const nn::TargetModule& module) {
      return whole && module.kind == nn::TargetModule::Kind::heads && module.experts > 0;
    };
    const auto count = std::count_if(model->target_modules().begin(), model->target_modules().end(), made);
    ASSERT_EQ(base.target_modules.size(), model->target_modules().size() - size_t(count)) << name;
    for (const nn::TargetModule& module : model->target_modules()) {
      if (made(module)) continue;
      const auto it = std::find_if(base.target_modules.begin(), base.target_modules.end(),
                                   [&](const nn::TargetModule& s) { return s.name == module.name; });
      ASSERT_NE(it, base.target_modules.end()) << module.name;
      EXPECT_EQ(it->in, module.in) << module.name;
      EXPECT_EQ(it->out, module.out) << module.name;
      if (!module.name.ends_with(".kv_b_proj")) {
        EXPECT_EQ(it->kind, module.kind) << module.name;
      }
      EXPECT_EQ(it->router, module.router) << module.name;
      EXPECT_EQ(it->bias, module.bias) << module.name;
    }
  }
}

}  // namespace
}  // namespace bumblebee::lora
