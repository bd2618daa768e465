// info, adapter and fuse on adapters: what they print, what comes out of them, and how they refuse.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

std::string golden_adapter(const std::string& name) { return golden("adapters/" + name); }

TEST(AdapterInfo, SaysWhatAnAdapterIs) {
  const nlohmann::json json = run({"info", golden_adapter("peft_patterns"), "--json"}).json();
  EXPECT_EQ(json.at("format"), "peft");
  EXPECT_EQ(json.at("kind"), "lora");
  EXPECT_EQ(json.at("base"), "tiny");
  EXPECT_EQ(json.at("config").at("r"), "2");
  ASSERT_EQ(json.at("modules").size(), 8u);
  for (const nlohmann::json& module : json["modules"]) {
    const std::string name = module.at("name");
    if (name == "model.layers.1.self_attn.q_proj") {
      EXPECT_EQ(module.at("rank"), 5);
      EXPECT_FLOAT_EQ(module.at("scale").get<float>(), 1.4f);
      EXPECT_EQ(module.at("layer"), 1);
    }
    EXPECT_GT(module.at("change").get<double>(), 0) << name;
  }
}

TEST(AdapterInfo, ForPeopleWithASparkline) {
  const Outcome got = run({"info", golden_adapter("mlx_head")});
  ASSERT_EQ(got.status, 0) << got.err;
  for (const char* part : {"mlx-lm, lora", "rank           3", "scale          0.75", "layers         0-1",
                           "self_attn.k_proj", "outside        lm_head, model.embed_tokens", "|scale·BA|", "█"})
    EXPECT_NE(got.out.find(part), std::string::npos) << part << " in\n" << got.out;
  const Outcome last = run({"info", "-m", golden_adapter("mlx_last_layer")});
  EXPECT_NE(last.out.find("  .█"), std::string::npos) << "no change in the first layer: " << last.out;
  const Outcome full = run({"info", golden_adapter("mlx_full"), "-v"});
  EXPECT_NE(full.out.find("with whole weight"), std::string::npos) << full.out;
}

TEST(AdapterInfo, RefusesBrokenOnes) {
  Scratch scratch;
  std::filesystem::copy(golden_adapter("mlx_lora"), scratch / "a");
  std::filesystem::remove(scratch / "a" / "adapter_config.json");
  const Outcome got = run({"info", (scratch / "a").string()});
  EXPECT_EQ(got.status, 3) << got.err;
  EXPECT_NE(got.err.find("adapter_config.json] missing"), std::string::npos) << got.err;
}

TEST(Adapter, ConvertsThereAndBack) {
  Scratch scratch;
  const std::string there = (scratch / "peft").string(), back = (scratch / "mlx").string();
  const Outcome got = run({"adapter", "convert", golden_adapter("mlx_lora"), there, "--to", "peft", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("exact"), true);
  EXPECT_EQ(got.json().at("format"), "peft");
  ASSERT_EQ(run({"adapter", "convert", there, "-o", back, "--to", "mlx"}).status, 0);
  const auto modules = [](const std::string& directory) {
    return run({"info", directory, "--json"}).json().at("modules");
  };
  EXPECT_EQ(modules(there), modules(golden_adapter("mlx_lora")));
  EXPECT_EQ(modules(back), modules(golden_adapter("mlx_lora")));

  EXPECT_EQ(run({"adapter", "convert", golden_adapter("mlx_lora"), there, "--to", "peft"}).status, 2) << "it exists";
  EXPECT_EQ(
      run({"adapter", "convert", golden_adapter("mlx_lora") + ":scale=3", there, "--to", "peft", "--force"}).status, 0);
  EXPECT_EQ(modules(there).at(0).at("scale"), 3);
}

TEST(Adapter, AsksForTheBaseWhereAFormatDependsOnIt) {
  Scratch scratch;
  const auto convert = [&](const std::string& name, const char* to, std::vector<std::string> more) {
    std::vector<std::string> call = {"adapter", "convert", golden_adapter(name), (scratch / name).string(), "--to", to};
    call.insert(call.end(), more.begin(), more.end());
    return run(call);
  };
  EXPECT_EQ(convert("peft_layers", "mlx", {}).status, 8);
  EXPECT_EQ(convert("peft_layers", "mlx", {"--base", golden("models/qwen3")}).status, 0);
  EXPECT_EQ(convert("mlx_head", "peft", {}).status, 5);
  EXPECT_EQ(convert("mlx_head", "peft", {"--base", golden("models/qwen3")}).status, 0);
  EXPECT_EQ(convert("mlx_tied_embedding", "peft", {"--base", golden("models/qwen2")}).status, 5) << "a tied head";
  EXPECT_EQ(convert("mlx_tied_embedding", "peft", {"--untied-head"}).status, 0);
}

TEST(Adapter, Merges) {
  Scratch scratch;
  const std::string out = (scratch / "both").string();
  const Outcome got = run({"adapter", "merge", golden_adapter("mlx_lora") + ":0.5", golden_adapter("peft_regex"), "-o",
                           out, "--to", "peft", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  const nlohmann::json modules = run({"info", out, "--json"}).json().at("modules");
  for (const nlohmann::json& module : modules) EXPECT_EQ(module.at("rank"), 6) << module;
  EXPECT_EQ(run({"adapter", "merge", golden_adapter("peft_dora"), "-o", (scratch / "x").string()}).status, 5);
  EXPECT_EQ(run({"adapter", "merge", golden_adapter("mlx_lora")}).status, 2) << "no output";
  EXPECT_EQ(run({"adapter", "merge", golden_adapter("mlx_lora") + ":nan", "-o", (scratch / "x").string()}).status, 2);
}

TEST(Adapter, SaysHowItIsUsed) {
  EXPECT_EQ(run({"adapter"}).status, 2);
  EXPECT_EQ(run({"adapter", "frobnicate"}).status, 2);
  EXPECT_EQ(run({"adapter", "convert", golden_adapter("mlx_lora"), "x"}).status, 2) << "no --to";
  EXPECT_EQ(run({"adapter", "convert", "--to", "mlx"}).status, 2);
}

TEST(Fuse, IntoDenseWeightsLosesNothingToSpeakOf) {
  Scratch scratch;
  const Outcome got = run({"fuse", golden("models/qwen3"), (scratch / "out").string(), "--adapter",
                           golden_adapter("peft_lora"), "--dtype", "float32", "-d", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_EQ(got.json().at("modules").size(), 14u);
  EXPECT_LT(got.json().at("loss").at("relative_error").get<double>(), 1e-6);
  EXPECT_EQ(run({"info", (scratch / "out").string(), "--json"}).json().at("bits"), 0);
}

TEST(Fuse, BackIntoFourBitsPrintsTheLoss) {
  Scratch scratch;
  const std::string out = (scratch / "out").string();
  const Outcome got = run({"fuse", "-m", golden("widths/b4_g64_tied_bf16"), "--save-path", out, "--adapter-path",
                           golden_adapter("mlx_quantized") + ":0.1"});
  ASSERT_EQ(got.status, 0) << got.err;
  for (const char* part : {"of change", "model.layers.1.mlp.up_proj", "all ", "%"})
    EXPECT_NE(got.out.find(part), std::string::npos) << got.out;
  EXPECT_EQ(run({"info", out, "--json"}).json().at("bits"), 4);
}

/// On a model with a tokenizer: an adapter for it, made here.
TEST(Fuse, MeasuresTheWholeModelOnAText) {
  Scratch scratch;
  const std::string small = (scratch / "small").string();
  ASSERT_EQ(run({"quantize", tiny_model(), small, "--group-size", "32"}).status, 0);
  std::filesystem::create_directory(scratch / "adapter");
  write_file(
      scratch / "adapter" / "adapter_config.json",
      R"({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 1, "scale": 1.0, "keys": ["self_attn.q_proj"]}})");
  std::string header =
      R"({"model.layers.1.self_attn.q_proj.lora_a":{"dtype":"F32","shape":[64,1],"data_offsets":[0,256]},)"
      R"("model.layers.1.self_attn.q_proj.lora_b":{"dtype":"F32","shape":[1,64],"data_offsets":[256,512]}})";
  std::string bytes(8, '\0');
  bytes[0] = char(header.size() & 255);
  bytes[1] = char(header.size() >> 8);
  bytes += header;
  for (int i = 0; i < 128; ++i) {
    const float value = 0.3f * std::sin(float(i) * 1.7f);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  write_file(scratch / "adapter" / "adapters.safetensors", bytes);
  write_file(scratch / "text", "The quick brown fox jumps over the lazy dog, twice.");
  const Outcome got = run({"fuse", small, (scratch / "out").string(), "--adapter", (scratch / "adapter").string(),
                           "--text", (scratch / "text").string(), "-c", "16", "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  const nlohmann::json kl = got.json().at("kl");
  EXPECT_GT(kl.at("tokens").get<int>(), 16);
  EXPECT_GT(kl.at("base").get<double>(), 0) << "the adapter does something";
  EXPECT_GT(kl.at("fused").get<double>(), 0);
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    ++entries;
    EXPECT_EQ(entry.path().string().find("unfused"), std::string::npos) << entry;
  }
  EXPECT_EQ(entries, 4);
}

TEST(Fuse, TakesEveryAdapterThatIsNamed) {
  Scratch scratch;
  const Outcome got = run({"fuse", "--adapter", "/nowhere/at/all", "--adapter", golden_adapter("peft_lora"),
                           golden("models/qwen3"), (scratch / "out").string()});
  EXPECT_EQ(got.status, 3) << "the last one alone would do: " << got.out;
  EXPECT_NE(got.err.find("/nowhere/at/all"), std::string::npos) << got.err;
}

TEST(Fuse, Refuses) {
  Scratch scratch;
  const std::string out = (scratch / "out").string();
  EXPECT_EQ(run({"fuse", golden("models/qwen3"), out}).status, 2) << "no adapter";
  EXPECT_EQ(run({"fuse", "--adapter", golden_adapter("peft_lora")}).status, 2) << "no model";
  const Outcome got = run({"fuse", golden("models/qwen2"), out, "--adapter", golden_adapter("peft_lora")});
  EXPECT_EQ(got.status, 8) << got.err;
  EXPECT_NE(got.err.find("does not fit the base"), std::string::npos) << got.err;
  EXPECT_FALSE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace bumblebee::apps_test
