// convert and quantize: what comes out runs, the report is honest, and no output is ever half there.
#include <gtest/gtest.h>

#include "tests/apps/harness.h"

namespace bumblebee::apps_test {
namespace {

nlohmann::json greedy(const std::string& model) {
  Outcome got = run({"generate", "-m", model, "-p", "Hello", "-n", "8", "--greedy", "--json"});
  EXPECT_EQ(got.status, 0) << got.err;
  return got.json();
}

TEST(Convert, GgufToMlxIsExactAndRuns) {
  Scratch scratch;
  std::string out = (scratch / "model").string();
  Outcome got = run({"convert", tiny_gguf(), out, "--json"});
  ASSERT_EQ(got.status, 0) << got.err;
  nlohmann::json report = got.json();
  EXPECT_EQ(report.at("output"), out);
  EXPECT_EQ(report.at("exact"), true) << "Q4_0 and F32 lose nothing";
  EXPECT_GT(report.at("bytes").get<int64_t>(), 20000);
  EXPECT_FALSE(report.at("tensors").empty());
  for (const nlohmann::json& tensor : report["tensors"]) EXPECT_EQ(tensor.at("exact"), true) << tensor;

  nlohmann::json info = run({"info", out, "--json"}).json();
  EXPECT_EQ(info.at("bits"), 4);
  EXPECT_EQ(info.at("group_size"), 32);
  EXPECT_EQ(info.at("mode"), "affine");
  EXPECT_EQ(run({"tokenize", "-m", out, "--json", "ab"}).json(), nlohmann::json({97, 98}));
  EXPECT_EQ(run({"tokenize", "-m", out, "--json", "the"}).json(), nlohmann::json({259, 101})) << "merges came along";
  EXPECT_EQ(greedy(out).at("tokens").size(), 8u) << "chat template, ends and weights came along";
}

TEST(Convert, TextReportSaysWhatBecameOfTheWeights) {
  Scratch scratch;
  Outcome got = run({"convert", tiny_gguf(), (scratch / "model").string()});
  ASSERT_EQ(got.status, 0) << got.err;
  EXPECT_NE(got.out.find("Q4_0"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("exact"), std::string::npos) << got.out;
}

TEST(Convert, ForceReplacesWhatAnEarlierRunWroteAndNothingElse) {
  Scratch scratch;
  const auto convert = [&](const char* where, bool force) {
    std::vector<std::string> words = {"convert", tiny_gguf(), (scratch / where).string()};
    if (force) words.push_back("--force");
    return run(words);
  };
  // A model that somebody else put there, and photos: both stay.
  copy_tiny_model(scratch / "there");
  std::filesystem::create_directory(scratch / "photos");
  write_file(scratch / "photos" / "a", "precious");
  const std::string config = read_file(scratch / "there" / "config.json");
  for (const char* where : {"there", "photos"}) {
    for (const bool force : {false, true}) {
      const Outcome refused = convert(where, force);
      EXPECT_EQ(refused.status, 2) << where << refused.err;
    }
  }
  EXPECT_EQ(read_file(scratch / "there" / "config.json"), config);
  EXPECT_EQ(read_file(scratch / "photos" / "a"), "precious");

  // Its own output is replaced; what lies beside it is not.
  ASSERT_EQ(convert("mine", false).status, 0);
  EXPECT_EQ(convert("mine", false).status, 2) << "not without --force";
  std::filesystem::create_directory(scratch / "mine" / "sub");
  write_file(scratch / "mine" / "sub" / "y", "precious");
  write_file(scratch / "mine" / "notes.txt", "precious");
  std::filesystem::remove(scratch / "mine" / "tokenizer.json");
  const Outcome forced = convert("mine", true);
  EXPECT_EQ(forced.status, 0) << forced.err;
  EXPECT_TRUE(std::filesystem::exists(scratch / "mine" / "tokenizer.json"));
  EXPECT_EQ(read_file(scratch / "mine" / "sub" / "y"), "precious");
  EXPECT_EQ(read_file(scratch / "mine" / "notes.txt"), "precious");

  // A file that was edited since is the user's.
  write_file(scratch / "mine" / "config.json", "{\"edited\": 1}");
  const Outcome edited = convert("mine", true);
  EXPECT_EQ(edited.status, 2);
  EXPECT_NE(edited.err.find("config.json"), std::string::npos) << edited.err;
  EXPECT_EQ(read_file(scratch / "mine" / "config.json"), "{\"edited\": 1}");
  EXPECT_TRUE(std::filesystem::exists(scratch / "mine" / "tokenizer.json")) << "nothing was moved";
  size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) entries += entry.exists();
  EXPECT_EQ(entries, 3u) << "no folder is left beside them";
}

TEST(Convert, ALinkedOutputIsReplacedWhereItLies) {
  Scratch scratch;
  std::filesystem::create_directory(scratch / "disk");
  std::filesystem::create_directory_symlink("disk", scratch / "out");
  for (int i = 0; i < 2; ++i) {
    const Outcome got = run({"convert", tiny_gguf(), (scratch / "out").string(), "--force"});
    EXPECT_EQ(got.status, 0) << got.err;
    EXPECT_TRUE(std::filesystem::is_symlink(scratch / "out"));
    EXPECT_TRUE(std::filesystem::exists(scratch / "disk" / "config.json"));
  }
  // What an interrupted run had set aside is named, not mixed in.
  std::filesystem::create_directory(scratch / "disk" / ".bumblebee-old-0");
  const Outcome got = run({"convert", tiny_gguf(), (scratch / "out").string(), "--force"});
  EXPECT_EQ(got.status, 2);
  EXPECT_NE(got.err.find(".bumblebee-old-0"), std::string::npos) << got.err;
}

TEST(Convert, AnOutputOverAnInputIsRefusedInEveryVerb) {
  Scratch scratch;
  copy_tiny_model(scratch / "base");
  std::filesystem::copy(golden("adapters/mlx_lora"), scratch / "adapter");
  std::filesystem::copy(tiny_gguf(), scratch / "base" / "model.gguf");
  const std::string base = (scratch / "base").string(), adapter = (scratch / "adapter").string(),
                    gguf = (scratch / "base" / "model.gguf").string();
  const auto contents = [&] {
    std::string all;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch.path()))
      if (entry.is_regular_file()) all += entry.path().string() + read_file(entry.path());
    return all;
  };
  const std::string before = contents();
  const std::vector<std::vector<std::string>> calls = {
      {"convert", gguf, base},
      {"convert", base, base, "-d"},
      {"convert", base, base + "/out", "-d"},
      {"convert", base, scratch.path().string(), "-d"},
      {"quantize", base, base},
      {"fuse", base, base, "--adapter", adapter},
      {"fuse", base, adapter, "--adapter", adapter},
      {"adapter", "convert", adapter, adapter, "--to", "peft"},
      {"adapter", "convert", adapter, adapter + "/peft", "--to", "peft"},
      {"adapter", "merge", adapter + ":0.5", "-o", adapter},
      {"adapter", "convert", adapter, base, "--to", "peft", "--base", base},
      {"logits", "-m", base, "--tokens", "1", "-o", base + "/model.safetensors"}};
  for (std::vector<std::string> words : calls) {
    if (words[0] != "logits") words.push_back("--force");
    const Outcome got = run(words);
    EXPECT_EQ(got.status, 2) << words[0] << ' ' << words[2];
    EXPECT_NE(got.err.find("apart from the input"), std::string::npos) << words[0] << ": " << got.err;
  }
  EXPECT_EQ(contents(), before);
}

TEST(Convert, AFailureLeavesNothingBehind) {
  Scratch scratch;
  std::string broken = read_file(tiny_gguf());
  write_file(scratch / "broken.gguf", broken.substr(0, broken.size() / 2));
  Outcome got = run({"convert", (scratch / "broken.gguf").string(), (scratch / "out").string()});
  EXPECT_EQ(got.status, 3) << got.err;
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path()))
    entries += entry.path().filename() != "broken.gguf";
  EXPECT_EQ(entries, 0);
}

TEST(Convert, ADirectoryAsMlxLmConvertDoes) {
  Scratch scratch;
  std::string small = (scratch / "small").string(), back = (scratch / "back").string(),
              wide = (scratch / "wide").string();
  Outcome quantized = run({"convert", "--hf-path", tiny_model(), "--mlx-path", small, "-q", "--q-bits", "8",
                           "--q-group-size", "32", "--json"});
  ASSERT_EQ(quantized.status, 0) << quantized.err;
  EXPECT_EQ(quantized.json().at("exact"), false);
  nlohmann::json info = run({"info", small, "--json"}).json();
  EXPECT_EQ(info.at("bits"), 8);
  EXPECT_EQ(info.at("group_size"), 32);

  ASSERT_EQ(run({"convert", small, back, "-d"}).status, 0);
  EXPECT_EQ(run({"info", back, "--json"}).json().at("bits"), 0);

  Outcome cast = run({"convert", tiny_model(), wide, "--dtype", "float32"});
  ASSERT_EQ(cast.status, 0) << cast.err;
  EXPECT_EQ(greedy(wide).at("tokens"), greedy(tiny_model()).at("tokens")) << "f16 to f32 changes nothing";

  EXPECT_EQ(run({"convert", tiny_model(), (scratch / "x").string(), "-q", "-d"}).status, 2);
  EXPECT_EQ(run({"convert", tiny_model(), (scratch / "x").string(), "--requantize"}).status, 2);
  EXPECT_EQ(run({"convert", tiny_gguf(), (scratch / "x").string(), "-d"}).status, 2);
}

TEST(Quantize, EqualsConvertAndRuns) {
  Scratch scratch;
  std::string a = (scratch / "a").string(), b = (scratch / "b").string();
  Outcome got = run({"quantize", tiny_model(), a, "--bits", "4", "--group-size", "64", "--variant", "cpu"});
  ASSERT_EQ(got.status, 0) << got.err;
  ASSERT_EQ(run({"convert", tiny_model(), b, "-q"}).status, 0);
  EXPECT_EQ(read_file(scratch / "a" / "model.safetensors"), read_file(scratch / "b" / "model.safetensors"));
  nlohmann::json info = run({"info", a, "--json"}).json();
  EXPECT_EQ(info.at("bits"), 4);
  EXPECT_EQ(info.at("group_size"), 64);
  EXPECT_EQ(greedy(a).at("tokens").size(), 8u);
  EXPECT_NE(run({"quantize", a, (scratch / "c").string(), "--bits", "8"}).status, 0)
      << "what is quantized is not quantized again";
}

TEST(Quantize, VariantsDiffer) {
  Scratch scratch;
  ASSERT_EQ(run({"quantize", tiny_model(), (scratch / "cpu").string(), "--variant", "cpu"}).status, 0);
  ASSERT_EQ(run({"quantize", tiny_model(), (scratch / "gpu").string(), "--variant", "gpu"}).status, 0);
  EXPECT_NE(read_file(scratch / "cpu" / "model.safetensors"), read_file(scratch / "gpu" / "model.safetensors"));
}

}  // namespace
}  // namespace bumblebee::apps_test
