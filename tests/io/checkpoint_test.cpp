// Directories of every shape that mlx-lm and Hugging Face write, and matrices as config.json and tensors agree on them.
#include <cmath>

#include "io/checkpoint.h"

#include "base/error.h"
#include "base/log.h"
#include "quant/elements.h"
#include "tests/io/pieces.h"

namespace bumblebee {
namespace {

using namespace test;

TEST(Checkpoint, SingleFileQuantizedAndDense) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", kConfig);
  save(d.path() / "model.safetensors",
       quantized("a.b", 3, 64, 4, 32) +
           std::vector<Piece>{dense("c.weight", DType::bf16, {2, 5}), dense("n.weight", DType::f32, {7})});
  auto checkpoint = Checkpoint::open(d.path());
  EXPECT_EQ(checkpoint->unclaimed(),
            (std::vector<std::string>{"a.b.biases", "a.b.scales", "a.b.weight", "c.weight", "n.weight"}));
  const HostWeight q = checkpoint->matrix("a.b", 3, 64);
  EXPECT_EQ(q.format, Format::affine(4, 32, DType::f16, DType::f16));
  EXPECT_EQ(q.out, 3);
  EXPECT_EQ(q.in, 64);
  EXPECT_EQ(q.name, "a.b");
  EXPECT_EQ(q.codes.size(), 3u * 32);
  EXPECT_EQ(q.scales.size(), 3u * 2 * 2);
  EXPECT_EQ(char(q.codes[0]), 'a');
  EXPECT_EQ(char(q.scales[0]), 'b');
  EXPECT_EQ(char(q.biases[0]), 'c');
  EXPECT_EQ(checkpoint->matrix("c", 2, 5).format, Format::dense(DType::bf16));
  const HostWeight v = checkpoint->vector("n.weight", 7);
  EXPECT_EQ(v.in, 7);
  EXPECT_EQ(v.out, 1);
  EXPECT_TRUE(checkpoint->unclaimed().empty());
  EXPECT_TRUE(checkpoint->has("a.b.scales"));
  EXPECT_FALSE(checkpoint->has("c.scales"));
  EXPECT_EQ(checkpoint->parameters(), 3u * 64 + 10 + 7);
  // The weights outlive the checkpoint.
  checkpoint.reset();
  EXPECT_EQ(char(q.biases[11]), 'c');
}

TEST(Checkpoint, IgnoredTensorsAreNotUnclaimed) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  save(d.path() / "model.safetensors", {dense("lm_head.weight", DType::f32, {1, 1})});
  auto checkpoint = Checkpoint::open(d.path());
  checkpoint->ignore("lm_head.weight");
  checkpoint->ignore("absent");
  EXPECT_TRUE(checkpoint->unclaimed().empty());
}

TEST(Checkpoint, ShardsWithoutIndexAndWithPartsInSeveralShards) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", kConfig);
  const auto parts = quantized("m", 2, 32, 4, 32);
  save(d.path() / "model-00001-of-00002.safetensors", {parts[0]});
  save(d.path() / "model-00002-of-00002.safetensors", {parts[1], parts[2]});
  write_bytes(d.path() / "adapters.safetensors", "not read");
  EXPECT_EQ(char(Checkpoint::open(d.path())->matrix("m", 2, 32).scales[0]), 'b');
}

TEST(Checkpoint, FilesAsMlxsFirstToolsCalledThem) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  save(d.path() / "weights.00.safetensors", {dense("a.weight", DType::f16, {1, 2})});
  save(d.path() / "weights.01.safetensors", {dense("b.weight", DType::f16, {1, 2})});
  EXPECT_EQ(Checkpoint::open(d.path())->names(), (std::vector<std::string>{"a.weight", "b.weight"}));
}

TEST(Checkpoint, AnIndexNamesTheShards) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  save(d.path() / "model-x.safetensors", {dense("a.weight", DType::f16, {1, 2})});
  save(d.path() / "model-y.safetensors", {dense("b.weight", DType::f16, {1, 2})});
  write_bytes(d.path() / "model-stray.safetensors", "not named by the index, so not read");
  write_bytes(d.path() / "model.safetensors.index.json",
              R"({"metadata":{},"weight_map":{"a.weight":"model-x.safetensors","b.weight":"model-y.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(d.path())->names(), (std::vector<std::string>{"a.weight", "b.weight"}));
}

/// Whoever joins shards, or packs them anew, may leave the old index behind; mlx-lm never opens it.
TEST(Checkpoint, AnIndexOfShardsThatAreNotHereIsLeftOut) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  save(d.path() / "model.safetensors", {dense("a.weight", DType::f16, {1, 2})});
  write_bytes(
      d.path() / "model.safetensors.index.json",
      R"({"weight_map":{"a.weight":"model-00001-of-00002.safetensors","b.weight":"model-00002-of-00002.safetensors"}})");
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  EXPECT_EQ(Checkpoint::open(d.path())->names(), (std::vector<std::string>{"a.weight"}));
  set_log_sink({});
  EXPECT_NE(told.find("model.safetensors.index.json] left out"), std::string::npos) << told;
  save(d.path() / "model-00001-of-00002.safetensors", {dense("a.weight", DType::f16, {1, 2})});
  EXPECT_THROW(Checkpoint::open(d.path()), Error) << "some are here and some are not: nobody knows";
}

TEST(Checkpoint, SaysWhatLiesThereInPlaceOfTheWeights) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  for (const auto& [text, part] : std::initializer_list<std::pair<const char*, const char*>>{
           {"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 134217728\n", "a Git LFS pointer"},
           {"<!doctype html><html>", "an HTML page"}}) {
    write_bytes(d.path() / "model.safetensors", text);
    try {
      Checkpoint::open(d.path());
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("model.safetensors]"), std::string::npos) << error.what();
    }
  }
}

/// As transformers writes it since 2025: the text model inside "model.", the head outside.
TEST(Checkpoint, ATextModelInsideAVisionModelOfTransformers) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json",
              R"({"text_config":{},"quantization":{"bits":4,"group_size":64,"model.m":{"bits":8,"group_size":32}}})");
  save(d.path() / "model.safetensors",
       quantized("model.language_model.m", 2, 32, 8, 32) +
           std::vector<Piece>{dense("lm_head.weight", DType::f32, {1, 1}), dense("model.visual.w", DType::f32, {1}),
                              dense("mtp.fc.weight", DType::f32, {1, 1})});
  auto checkpoint = Checkpoint::open(d.path());
  EXPECT_EQ(checkpoint->matrix("model.m", 2, 32).format.bits, 8) << "named as inside the text model";
  EXPECT_TRUE(checkpoint->has("lm_head.weight"));
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  EXPECT_EQ(checkpoint->unclaimed(), std::vector<std::string>{"lm_head.weight"});
  set_log_sink({});
  EXPECT_NE(told.find("left out 2 tensors beside the text model: 'model.visual.w', 'mtp.fc.weight'"), std::string::npos)
      << told;
}

TEST(Checkpoint, ATextModelInsideAVisionModel) {
  const TemporaryDirectory d;
  write_bytes(
      d.path() / "config.json",
      R"({"text_config":{"hidden_size":2},"quantization":{"bits":4,"group_size":64,"language_model.m":{"bits":8,"group_size":32}}})");
  save(d.path() / "model.safetensors",
       quantized("language_model.m", 2, 32, 8, 32) + std::vector<Piece>{dense("vision_tower.w", DType::f32, {1})});
  auto checkpoint = Checkpoint::open(d.path());
  EXPECT_EQ(checkpoint->matrix("m", 2, 32).format.bits, 8);
  EXPECT_TRUE(checkpoint->has("m.weight"));
  EXPECT_TRUE(checkpoint->unclaimed().empty());
}

/// What `quantization` does not name has the width and group of its shapes, whatever the top level says.
TEST(Checkpoint, ShapesSayWhatNobodyNames) {
  const char* const configs[] = {R"({"quantization":{"bits":4,"group_size":64,"b":true}})",
                                 R"({"quantization":{"bits":2,"group_size":128,"b":{"bits":4}}})", "{}"};
  for (const char* config : configs) {
    SCOPED_TRACE(config);
    const TemporaryDirectory d;
    write_bytes(d.path() / "config.json", config);
    // 8 bits in groups of 32 and 4 bits in groups of 64 have the same shapes but for the inputs.
    save(d.path() / "model.safetensors",
         quantized("a", 2, 64, 8, 32) + quantized("b", 2, 64, 4, 64) + quantized("c", 2, 96, 3, 32));
    auto checkpoint = Checkpoint::open(d.path());
    EXPECT_EQ(checkpoint->matrix("a", 2, 64).format, Format::affine(8, 32, DType::f16, DType::f16));
    EXPECT_EQ(checkpoint->matrix("b", 2, 64).format, Format::affine(4, 64, DType::f16, DType::f16));
    EXPECT_EQ(checkpoint->matrix("c", 2, 96).format, Format::affine(3, 32, DType::f16, DType::f16));
    std::string told;
    set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
    EXPECT_TRUE(checkpoint->unclaimed().empty());
    set_log_sink({});
    EXPECT_NE(told.find("'a (8-bit group 32)'"), std::string::npos) << told;
    EXPECT_NE(told.find("'c (3-bit group 32)'"), std::string::npos) << told;
    EXPECT_EQ(told.find("'b "), config[1] == '}' ? told.find("'b (4-bit group 64)'") : std::string::npos) << told;
    EXPECT_NE(told.find(config[1] == '}' ? "there is no 'quantization'" : "'quantization' does not name them"),
              std::string::npos)
        << told;

    // Whoever lists the files' modules learns the inputs from who knows the model.
    checkpoint = Checkpoint::open(d.path());
    checkpoint->set_inputs({{"a", 64}, {"b", 64}, {"c", 96}});
    const auto modules = checkpoint->modules();
    ASSERT_EQ(modules.size(), 3u);
    EXPECT_EQ(modules[0].format.bits, 8);
    EXPECT_EQ(modules[0].shape.back(), 64u);
    EXPECT_EQ(modules[2].format.bits, 3);
  }
}

TEST(Checkpoint, ANoteOnlyWhereShapesDisagree) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", kConfig);
  save(d.path() / "model.safetensors", quantized("m", 2, 64, 4, 32));
  auto checkpoint = Checkpoint::open(d.path());
  checkpoint->matrix("m", 2, 64);
  std::string told;
  set_log_sink([&](LogLevel, std::string_view line) { told = line; }, LogLevel::warning);
  EXPECT_TRUE(checkpoint->unclaimed().empty());
  set_log_sink({});
  EXPECT_EQ(told, "");
}

TEST(Checkpoint, StacksOfExperts) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", R"({"quantization":{"bits":4,"group_size":64}})");
  auto stack = quantized("s", 6, 64, 8, 32);  // by its shapes
  for (Piece& piece : stack) piece.spec.shape = {3, 2, piece.spec.shape[1]};
  for (size_t i = 0; i < stack[0].bytes.size(); ++i) stack[0].bytes[i] = char('a' + i / 128);
  save(d.path() / "model.safetensors", stack + std::vector<Piece>{dense("t.weight", DType::bf16, {3, 4, 5})});
  auto checkpoint = Checkpoint::open(d.path());
  const HostWeight s = checkpoint->experts("s", 3, 2, 64), t = checkpoint->experts("t", 3, 4, 5);
  EXPECT_EQ(s.format, Format::affine(8, 32, DType::f16, DType::f16));
  EXPECT_EQ(s.experts, 3);
  EXPECT_EQ(s.out, 2);
  for (int e = 0; e < 3; ++e) {
    const HostWeight one = expert_of(s, e);
    EXPECT_EQ(one.experts, 1);
    EXPECT_EQ(one.codes.size(), 128u);
    EXPECT_EQ(one.codes.front(), std::byte('a' + e));
    EXPECT_EQ(one.codes.back(), std::byte('a' + e));
    EXPECT_EQ(one.scales.size(), 2u * 2 * 2);
  }
  EXPECT_EQ(t.format, Format::dense(DType::bf16));
  EXPECT_EQ(expert_of(t, 2).codes.size(), 40u);
  EXPECT_TRUE(checkpoint->unclaimed().empty());
  expect_error([&] { checkpoint->experts("s", 2, 2, 64); }, "expected [2, 2, 64]", "other experts");
  expect_error([&] { checkpoint->experts("s", 3, 3, 64); }, "expected [3, 3, 64]", "other outputs");
  expect_error([&] { checkpoint->experts("t", 4, 4, 5); }, "expected [4, 4, 5], got [3, 4, 5]", "dense");
  expect_error([&] { checkpoint->experts("absent", 3, 2, 64); }, "'absent.weight'", "absent");
}

TEST(Checkpoint, PartsBesideTheTextWhereverTheyLie) {
  for (const char* name : {"mtp.fc.weight", "model.mtp.layers.0.w", "language_model.mtp.w", "model.visual.w",
                           "visual.w", "language_model.model.vision_tower.w", "audio_tower.w"})
    EXPECT_TRUE(is_beside_text(name)) << name;
  for (const char* name : {"model.layers.0.mlp.w", "lm_head.weight", "model.smtp.w", "model.layers.0.mtpx.w"})
    EXPECT_FALSE(is_beside_text(name)) << name;
}

/// The head outside the text model is its head all the same: without it the model would be taken for a tied one.
TEST(Checkpoint, AHeadOutsideTheTextModelOfAVisionModel) {
  const TemporaryDirectory d;
  const Piece outside = dense("lm_head.weight", DType::f32, {3, 2});
  const std::vector<Piece> inside = {dense("language_model.model.norm.weight", DType::f32, {2}),
                                     dense("vision_tower.w", DType::f32, {1})};
  write_bytes(d.path() / "config.json", R"({"text_config":{}})");
  save(d.path() / "model.safetensors", inside + std::vector<Piece>{outside});
  auto checkpoint = Checkpoint::open(d.path());
  EXPECT_TRUE(checkpoint->has("lm_head.weight"));
  EXPECT_EQ(checkpoint->unclaimed(), (std::vector<std::string>{"language_model.model.norm.weight", "lm_head.weight"}));
  EXPECT_EQ(checkpoint->matrix("lm_head", 3, 2).name, "lm_head");
  checkpoint->vector("model.norm.weight", 2);
  EXPECT_TRUE(checkpoint->unclaimed().empty());
  EXPECT_EQ(checkpoint->plain("language_model.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(checkpoint->plain("lm_head"), "lm_head");
  EXPECT_EQ(checkpoint->plain("vision_tower.w"), "");

  save(d.path() / "model.safetensors",
       inside + std::vector<Piece>{outside, dense("language_model.lm_head.weight", DType::f32, {3, 2})});
  checkpoint = Checkpoint::open(d.path());
  EXPECT_EQ(checkpoint->full("lm_head"), "language_model.lm_head");
  checkpoint->matrix("lm_head", 3, 2);
  checkpoint->vector("model.norm.weight", 2);
  EXPECT_EQ(checkpoint->unclaimed(), std::vector<std::string>{"lm_head.weight"}) << "two heads: one is left over";
}

TEST(Checkpoint, ListsModules) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json",
              R"({"quantization":{"bits":4,"group_size":32,"e.x":{"bits":3,"group_size":64}}})");
  save(d.path() / "model.safetensors", quantized("a", 3, 64, 4, 32, DType::bf16) + quantized("e.x", 1, 128, 3, 64) +
                                           std::vector<Piece>{dense("n.weight", DType::f64, {7})});
  const auto modules = Checkpoint::open(d.path())->modules();
  ASSERT_EQ(modules.size(), 3u);
  EXPECT_EQ(modules[0].name, "a");
  EXPECT_EQ(modules[0].format, Format::affine(4, 32, DType::bf16, DType::bf16));
  EXPECT_EQ(modules[0].shape, (std::vector<uint64_t>{3, 64}));
  EXPECT_EQ(modules[0].bytes, 3u * 32 + 2 * 3 * 2 * 2);
  EXPECT_EQ(modules[1].name, "e.x");
  EXPECT_EQ(modules[1].format.bits, 3);
  EXPECT_EQ(modules[1].shape.back(), 128u);
  EXPECT_EQ(modules[2].name, "n.weight");
  EXPECT_EQ(modules[2].format, Format::dense(DType::f64));
}

TEST(Checkpoint, ReadsTheGoldensOfEveryWidth) {
  int directories = 0, matrices = 0;
  for (const auto& entry : std::filesystem::directory_iterator(BB_TEST_DATA "/goldens/widths")) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    ++directories;
    const auto checkpoint = Checkpoint::open(entry.path());
    for (const auto& module : checkpoint->modules()) {
      if (module.format.kind != Format::Kind::affine) continue;
      ++matrices;
      const HostWeight w = checkpoint->matrix(module.name, int(module.shape[0]), int(module.shape[1]));
      std::vector<float> row(size_t(w.in));
      decode_row<float>(w, w.out - 1, row);
      for (const float value : row) ASSERT_TRUE(std::isfinite(value)) << entry.path() << " " << module.name;
    }
  }
  EXPECT_GE(directories, 3);
  EXPECT_GE(matrices, 30);
}

TEST(Checkpoint, RefusesModulesWhosePartsDisagree) {
  const auto good = quantized("m", 2, 64, 4, 32);
  const Broken cases[] = {
      {"missing weight", kConfig, {dense("other.weight", DType::f32, {1})}, "'m.weight'"},
      {"missing scales", kConfig, without(good, 1), "'m.scales'"},
      {"missing biases", kConfig, without(good, 2), "'m.biases'"},
      {"biases alone", kConfig, {dense("m.weight", DType::f16, {2, 64}), good[2]}, "'m.scales'"},
      {"weight is not packed", kConfig, with(good, 0, DType::f16, {2, 64}), "u32"},
      {"weight i32", kConfig, with(good, 0, DType::i32, {2, 8}), "u32"},
      {"scales u8 beside biases", kConfig, with(good, 1, DType::u8, {2, 2}), "biases beside scales of type u8"},
      {"scales f64", kConfig, with(good, 1, DType::f64, {2, 2}), "f64"},
      {"scales i16", kConfig, with(good, 1, DType::i16, {2, 2}), "i16"},
      {"biases u32", kConfig, with(good, 2, DType::u32, {2, 2}), "biases"},
      {"biases of another shape", kConfig, with(good, 2, DType::f16, {2, 1}), "[2, 1]"},
      {"scales with other rows", kConfig, with(with(good, 1, DType::f16, {3, 2}), 2, DType::f16, {3, 2}), "leading"},
      {"scales with another rank", kConfig, with(with(good, 1, DType::f16, {2}), 2, DType::f16, {2}), "leading"},
      {"scales of no columns", kConfig, with(with(good, 1, DType::f16, {2, 0}), 2, DType::f16, {2, 0}), "nothing"},
      {"group of an entry contradicts shapes", R"({"quantization":{"bits":4,"group_size":32,"m":{"group_size":64}}})",
       good, "group 64"},
      {"bits of an entry contradict shapes",
       R"({"quantization":{"bits":4,"group_size":32,"m":{"bits":8,"group_size":32}}})", good, "8-bit"},
      {"an entry says true, and the top level contradicts shapes",
       R"({"quantization":{"bits":8,"group_size":32,"m":true}})", good, "8-bit"},
      {"shapes give no width", kConfig, quantized("m", 2, 96, 4, 32), "got 6 bits and groups of 21.3333"},
      {"shapes give a width that is none", "{}", with(good, 0, DType::u32, {2, 14}),
       "expected 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, got 7 bits"},
      {"shapes give a group that is none", "{}", with(with(good, 1, DType::f16, {2, 4}), 2, DType::f16, {2, 4}),
       "got 4 bits and groups of 16"},
      {"config says dense", R"({"quantization":{"bits":4,"group_size":32,"m":false}})", good, "false"},
      {"config lists a dense module",
       R"({"quantization":{"bits":4,"group_size":32,"m":true}})",
       {dense("m.weight", DType::f16, {2, 64})},
       "'m.scales'"},
      {"other inputs", R"({"quantization":{"bits":4,"group_size":32,"m":true}})", quantized("m", 2, 32, 4, 32),
       "expected [2, 64]"},
      {"other outputs", kConfig, quantized("m", 3, 64, 4, 32), "expected [2, 64]"},
      {"same product, other group", R"({"quantization":{"bits":2,"group_size":64,"m":true}})", good, "[2, 64]"},
      {"three dimensions",
       kConfig,
       {dense("m.weight", DType::u32, {1, 2, 8}), dense("m.scales", DType::f16, {1, 2, 2}),
        dense("m.biases", DType::f16, {1, 2, 2})},
       "'m'"},
      {"dense f64", "{}", {dense("m.weight", DType::f64, {2, 64})}, "f64"},
      {"dense fp8", "{}", {dense("m.weight", DType::f8_e4m3, {2, 64})}, "f8_e4m3"},
      {"dense of another shape", "{}", {dense("m.weight", DType::f16, {64, 2})}, "[64, 2]"},
      {"dense vector", "{}", {dense("m.weight", DType::f16, {128})}, "[128]"},
      {"packed without scales", "{}", {dense("m.weight", DType::u32, {2, 8})}, "'m.scales'"},
  };
  expect_refusals(cases);
}

TEST(Checkpoint, RefusesVectors) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  save(d.path() / "model.safetensors",
       {dense("a", DType::f32, {3}), dense("b", DType::i64, {3}), dense("c", DType::f32, {1, 3})});
  auto checkpoint = Checkpoint::open(d.path());
  expect_error([&] { checkpoint->vector("a", 4); }, "'a'", "size");
  expect_error([&] { checkpoint->vector("b", 3); }, "i64", "dtype");
  expect_error([&] { checkpoint->vector("c", 3); }, "[1, 3]", "rank");
  expect_error([&] { checkpoint->vector("absent", 3); }, "'absent'", "absent");
}

TEST(Checkpoint, RefusesDirectories) {
  const auto refused = [](const std::vector<std::pair<std::string, std::string>>& files, const std::string& part) {
    const TemporaryDirectory d;
    for (const auto& [name, text] : files) write_bytes(d.path() / name, text);
    expect_error([&] { Checkpoint::open(d.path()); }, part, part);
    expect_error([&] { Checkpoint::open(d.path()); }, d.path().string(), part);
  };
  const std::string tensor = safetensors("{" + entry("a", "U8", "[1]", 0, 1) + "}", "x");
  refused({}, "model.safetensors");
  refused({{"config.json", "{}"}}, "model.safetensors");
  refused({{"model.safetensors", tensor}}, "config.json");
  refused({{"config.json", "{}"}, {"pytorch_model.bin", ""}}, "pytorch_model.bin");
  refused({{"config.json", "{}"}, {"consolidated.00.pth", ""}}, "pickle");
  refused({{"m.Q4_K_M.gguf", ""}}, "bumblebee convert");
  refused({{"config.json", "{}"}, {"model-1.safetensors", tensor}, {"model-2.safetensors", tensor}}, "'a' given twice");
  const auto indexed = [&](const std::string& index, const std::string& part) {
    refused({{"config.json", "{}"}, {"model-1.safetensors", tensor}, {"model.safetensors.index.json", index}}, part);
  };
  indexed(R"({"weight_map":{"a":"model-2.safetensors"}})", "model-2.safetensors");
  indexed(R"({"weight_map":{"b":"model-1.safetensors"}})", "'b'");
  indexed(R"({"weight_map":{"a":"../model-1.safetensors"}})", "inside");
  indexed(R"({"weight_map":{"a":"/etc/model.safetensors"}})", "inside");
  indexed(R"({"weight_map":{"a":""}})", "inside");
  indexed(R"({"weight_map":{"a":"x/../../y.safetensors"}})", "inside");
  indexed(R"({"weight_map":{"a":7}})", "'a'");
  indexed(R"({"weight_map":{"a":"pytorch_model.bin"}})", "pytorch_model.bin");
  indexed(R"({"weight_map":{}})", "weight_map");
  indexed(R"({"weight_map":[]})", "weight_map");
  indexed(R"({})", "weight_map");
  indexed(R"([])", "weight_map");
  indexed(R"({"weight_map":)", "index.json");
  expect_error([] { Checkpoint::open("/nonexistent-directory"); }, "/nonexistent-directory", "no directory");
}

}  // namespace
}  // namespace bumblebee
