// Quantizing a directory equals MLX's quantizer tensor by tensor; taking it away gives the decoded values back.
#include "io/quantize_checkpoint.h"

#include <nlohmann/json.hpp>

#include <fstream>

#include "base/float16.h"
#include "base/rng.h"
#include "io/checkpoint.h"
#include "io/checkpoint_writer.h"
#include "quant/elements.h"
#include "quant/float_codes.h"
#include "tests/io/files.h"

namespace bumblebee {
namespace {

using namespace test;

std::string random_bf16(size_t count, uint64_t key) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) bytes += packed(f32_to_bf16(float(uniform01(key, i) - 0.5)));
  return bytes;
}

void make_dense(const std::filesystem::path& directory,
                const std::string& config = R"({"model_type":"llama","torch_dtype":"bfloat16","_name_or_path":"x"})") {
  std::filesystem::create_directories(directory);
  write_bytes(directory / "config.json", config);
  write_bytes(directory / "tokenizer.json", "{}");
  write_bytes(directory / "chat_template.jinja", "{{ x }}");
  write_bytes(directory / "modeling.py", "never copied");
  std::filesystem::create_directories(directory / "additional_chat_templates");
  write_bytes(directory / "additional_chat_templates" / "tool_use.jinja", "{{ tools }}");
  std::filesystem::create_directories(directory / "onnx");
  const std::string embed = random_bf16(5 * 128, 1), odd = random_bf16(4 * 96, 2), norm = random_bf16(128, 3);
  write_safetensors(directory / "model.safetensors",
                    {{{"model.embed_tokens.weight", DType::bf16, {5, 128}}, as_bytes(embed)},
                     {{"model.layers.0.mlp.down_proj.weight", DType::bf16, {4, 96}}, as_bytes(odd)},
                     {{"model.norm.weight", DType::bf16, {128}}, as_bytes(norm)}});
}

TEST(QuantizeCheckpoint, EqualsTheQuantizer) {
  const TemporaryDirectory d;
  make_dense(d.path() / "dense");
  for (const AffineVariant variant : {AffineVariant::cpu, AffineVariant::gpu}) {
    const auto out = d.path() / (variant == AffineVariant::cpu ? "cpu" : "gpu");
    RewriteOptions options;
    options.quantize = QuantSpec{4, 64};
    options.variant = variant;
    options.threads = 2;
    const auto report = rewrite_checkpoint(d.path() / "dense", out, options);
    auto source = Checkpoint::open(d.path() / "dense"), result = Checkpoint::open(out);
    const HostWeight before = source->matrix("model.embed_tokens", 5, 128),
                     after = result->matrix("model.embed_tokens", 5, 128);
    std::vector<float> values;
    for (int row = 0; row < 5; ++row) {
      std::vector<float> one(128);
      decode_row<float>(before, row, one);
      values.insert(values.end(), one.begin(), one.end());
    }
    const QuantizedMatrix expected = quantize_affine(values, 5, 128, 4, 64, DType::bf16, variant);
    EXPECT_TRUE(std::equal(after.codes.begin(), after.codes.end(), expected.codes.begin(), expected.codes.end()));
    EXPECT_TRUE(std::equal(after.scales.begin(), after.scales.end(), expected.scales.begin(), expected.scales.end()));
    EXPECT_TRUE(std::equal(after.biases.begin(), after.biases.end(), expected.biases.begin(), expected.biases.end()));
    // 96 inputs are no multiple of 64.
    EXPECT_EQ(result->matrix("model.layers.0.mlp.down_proj", 4, 96).format, Format::dense(DType::bf16));
    ASSERT_EQ(report.notes.size(), 3u);
    const std::string notes = cat(report.notes[0], report.notes[1], report.notes[2]);
    for (const char* name : {"down_proj", "modeling.py", "onnx"})
      EXPECT_NE(notes.find(name), std::string::npos) << notes;
    EXPECT_EQ(result->config().json->at("quantization")["bits"], 4);
    EXPECT_FALSE(result->config().json->contains("_name_or_path"));
    EXPECT_EQ(read_bytes(out / "chat_template.jinja"), "{{ x }}");
    EXPECT_EQ(read_bytes(out / "additional_chat_templates" / "tool_use.jinja"), "{{ tools }}");
    EXPECT_FALSE(std::filesystem::exists(out / "onnx"));
    EXPECT_FALSE(std::filesystem::exists(out / "modeling.py"));
  }
}

TEST(QuantizeCheckpoint, FloatCodesAndBack) {
  const TemporaryDirectory d;
  make_dense(d.path() / "dense");
  auto source = Checkpoint::open(d.path() / "dense");
  const HostWeight before = source->matrix("model.embed_tokens", 5, 128);
  for (const QuantMode mode : {QuantMode::mxfp4, QuantMode::mxfp8, QuantMode::nvfp4}) {
    const std::string name(to_string(mode));
    RewriteOptions options;
    options.quantize = QuantSpec::of(mode);
    rewrite_checkpoint(d.path() / "dense", d.path() / name, options);
    auto result = Checkpoint::open(d.path() / name);
    EXPECT_EQ(result->config().json->at("quantization")["mode"], name);
    const Format format = format_of(QuantSpec::of(mode), DType::bf16);
    const HostWeight after = result->matrix("model.embed_tokens", 5, 128);
    EXPECT_EQ(after.format, format);
    EXPECT_TRUE(after.biases.empty());
    EXPECT_EQ(result->matrix("model.layers.0.mlp.down_proj", 4, 96).format, format);  // 96 is a multiple of 32
    RewriteOptions dense;
    dense.dequantize = true;
    rewrite_checkpoint(d.path() / name, d.path() / (name + "_dense"), dense);
    auto back = Checkpoint::open(d.path() / (name + "_dense"));
    EXPECT_FALSE(back->config().quantization.present());
    const HostWeight decoded = back->matrix("model.embed_tokens", 5, 128);
    for (int row = 0; row < 5; ++row) {
      std::vector<float> values(128), one(128), stored(128);
      decode_row<float>(before, row, values);
      decode_row<float>(after, row, one);
      decode_row<float>(decoded, row, stored);
      EXPECT_EQ(one, stored) << name;  // bf16 holds a code times a scale
      const QuantizedMatrix expected = quantize_floats(values, 1, 128, format, DType::bf16);
      const size_t bytes = row_bytes(format, 128);
      const auto codes = after.codes.subspan(size_t(row) * bytes, bytes);
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), expected.codes.begin(), expected.codes.end())) << name;
    }
    RewriteOptions again;
    again.quantize = QuantSpec{4, 32};
    expect_error([&] { rewrite_checkpoint(d.path() / name, d.path() / "x", again); }, "is already " + name, name);
  }
}

TEST(QuantizeCheckpoint, BackToDense) {
  const TemporaryDirectory d;
  make_dense(d.path() / "dense");
  RewriteOptions quantize, dense;
  quantize.quantize = QuantSpec{8, 32};
  rewrite_checkpoint(d.path() / "dense", d.path() / "q", quantize);
  dense.dequantize = true;
  dense.dtype = DType::f32;
  const auto report = rewrite_checkpoint(d.path() / "q", d.path() / "back", dense);
  auto q = Checkpoint::open(d.path() / "q"), back = Checkpoint::open(d.path() / "back");
  for (const TensorReport& tensor : report.tensors) EXPECT_TRUE(tensor.exact) << tensor.name;
  std::vector<float> a(96), b(96);
  const HostWeight before = q->matrix("model.layers.0.mlp.down_proj", 4, 96),
                   after = back->matrix("model.layers.0.mlp.down_proj", 4, 96);
  EXPECT_EQ(before.format.bits, 8);
  EXPECT_EQ(after.format, Format::dense(DType::f32));
  for (int row = 0; row < 4; ++row) {
    decode_row<float>(before, row, a);
    decode_row<float>(after, row, b);
    EXPECT_EQ(a, b);
  }
  EXPECT_FALSE(back->config().quantization.present());
  EXPECT_EQ(back->config().json->at("torch_dtype"), "float32");
}

RewriteOptions quantizing() {
  RewriteOptions options;
  options.quantize = QuantSpec{4, 32};
  return options;
}

RewriteOptions dequantizing() {
  RewriteOptions options;
  options.dequantize = true;
  return options;
}

/// ModelOpt's own file and its scales of activations stay behind: the result is a dense checkpoint like any other.
TEST(QuantizeCheckpoint, BackToDenseFromAnotherTool) {
  const TemporaryDirectory d;
  const auto dense = d.path() / "dense", again = d.path() / "again";
  rewrite_checkpoint(std::string(BB_TEST_DATA) + "/goldens/floats/modelopt", dense, dequantizing());
  EXPECT_FALSE(std::filesystem::exists(dense / "hf_quant_config.json"));
  const auto checkpoint = Checkpoint::open(dense);
  EXPECT_FALSE(checkpoint->config().quantization.present());
  for (const StoredModule& module : checkpoint->modules()) {
    EXPECT_EQ(module.format.kind, Format::Kind::dense) << module.name;
    EXPECT_FALSE(is_activation_scale(module.name)) << module.name;
  }
  rewrite_checkpoint(dense, again, quantizing());
  EXPECT_TRUE(Checkpoint::open(again)->config().quantization.present());
}

TEST(QuantizeCheckpoint, ExpertsInBlocksStayWhatTheyAre) {
  const TemporaryDirectory d;
  const auto source = d.path() / "source";
  std::filesystem::create_directories(source);
  write_bytes(source / "config.json", R"({"model_type":"gpt_oss","quantization_config":{"quant_method":"mxfp4"}})");
  const std::string codes(4 * 16, 'a'), scales(4, 'b');
  write_safetensors(source / "model.safetensors",
                    {{{"m.experts.down_proj_blocks", DType::u8, {1, 4, 1, 16}}, as_bytes(codes)},
                     {{"m.experts.down_proj_scales", DType::u8, {1, 4, 1}}, as_bytes(scales)}});
  for (const RewriteOptions& options : {quantizing(), dequantizing()}) {
    expect_error([&] { rewrite_checkpoint(source, d.path() / "out", options); }, "'m.experts.down_proj_blocks'",
                 "blocks");
  }
}

TEST(QuantizeCheckpoint, ChangesTheDenseType) {
  const TemporaryDirectory d;
  make_dense(d.path() / "dense");
  RewriteOptions options;
  options.dtype = DType::f32;
  const auto report = rewrite_checkpoint(d.path() / "dense", d.path() / "f32", options);
  for (const TensorReport& tensor : report.tensors) EXPECT_TRUE(tensor.exact && tensor.target == "f32") << tensor.name;
  options.dtype = DType::f16;
  EXPECT_EQ(rewrite_checkpoint(d.path() / "f32", d.path() / "f16", options).tensors[0].target, "f16");
}

/// As mlx-lm does, whose class of such routers has no quantized form.
TEST(QuantizeCheckpoint, RoutersOfRoutedExpertsStayDenseAndTheirBiasesExact) {
  const TemporaryDirectory d;
  for (const bool routed : {false, true}) {
    const auto from = d.path() / cat("dense", routed), to = d.path() / cat("quantized", routed);
    std::filesystem::create_directories(from);
    write_bytes(from / "config.json", routed ? R"({"model_type":"deepseek_v3","n_routed_experts":4})"
                                             : R"({"model_type":"qwen3_moe","num_experts":4})");
    const std::string gate = random_bf16(4 * 64, 1), heads = random_bf16(2 * 3 * 64, 2);
    const std::string bias = packed(1.00001f) + packed(2.0f) + packed(3.0f) + packed(4.0f);
    write_safetensors(from / "model.safetensors",
                      {{{"model.layers.0.mlp.gate.weight", DType::bf16, {4, 64}}, as_bytes(gate)},
                       {{"model.layers.0.mlp.gate.e_score_correction_bias", DType::f32, {4}}, as_bytes(bias)},
                       {{"model.layers.0.self_attn.unembed_out.weight", DType::bf16, {2, 3, 64}}, as_bytes(heads)}});
    RewriteOptions options;
    options.quantize = QuantSpec{4, 64};
    options.dtype = DType::bf16;
    rewrite_checkpoint(from, to, options);
    const auto result = Checkpoint::open(to);
    const Format format = result->matrix("model.layers.0.mlp.gate", 4, 64).format;
    EXPECT_EQ(format, routed ? Format::dense(DType::bf16) : Format::affine(8, 64, DType::bf16, DType::bf16));
    EXPECT_EQ(result->config().json->at("quantization").contains("model.layers.0.mlp.gate"), !routed);
    const auto kept = result->find("model.layers.0.mlp.gate.e_score_correction_bias");
    EXPECT_EQ(kept.tensor->dtype, DType::f32);
    EXPECT_TRUE(std::ranges::equal(kept.bytes(), as_bytes(bias)));
    EXPECT_EQ(result->heads("model.layers.0.self_attn.unembed_out", 2, 3, 64).format,
              Format::affine(4, 64, DType::bf16, DType::bf16));
  }
}

TEST(QuantizeCheckpoint, RefusesByName) {
  const TemporaryDirectory d;
  make_dense(d.path() / "dense");
  RewriteOptions four, eight, both, seven;
  four.quantize = QuantSpec{4, 32};
  eight.quantize = QuantSpec{8, 64};
  seven.quantize = QuantSpec{7, 64};
  both.quantize = QuantSpec{4, 64};
  both.dequantize = true;
  rewrite_checkpoint(d.path() / "dense", d.path() / "q", four);
  expect_error([&] { rewrite_checkpoint(d.path() / "q", d.path() / "x", eight); }, "8-bit group 64", "wanted");
  expect_error([&] { rewrite_checkpoint(d.path() / "q", d.path() / "x", eight); }, "4-bit group 32", "found");
  expect_error([&] { rewrite_checkpoint(d.path() / "dense", d.path() / "x", both); }, "both", "both");
  expect_error([&] { rewrite_checkpoint(d.path() / "dense", d.path() / "x", seven); }, "7 bits", "seven");
  expect_error([&] { rewrite_checkpoint(d.path() / "dense", d.path() / "q", four); }, "model", "over a model");
  EXPECT_FALSE(std::filesystem::exists(d.path() / "x" / "model.safetensors"));
}

TEST(QuantizeCheckpoint, NamesTheTensorThatIsNotFinite) {
  const TemporaryDirectory d;
  make_dense(d.path());
  std::string bytes = random_bf16(64, 5);
  bytes.replace(10, 2, packed(uint16_t{0x7f80}));
  write_safetensors(d.path() / "model.safetensors", {{{"lm_head.weight", DType::bf16, {1, 64}}, as_bytes(bytes)}});
  RewriteOptions options;
  options.quantize = QuantSpec{4, 64};
  const TemporaryDirectory out;
  expect_error([&] { rewrite_checkpoint(d.path(), out.path() / "x", options); }, "lm_head", "infinity");
  for (const std::filesystem::path& over : {d.path(), d.path() / "x", d.path().parent_path()})
    expect_error([&] { rewrite_checkpoint(d.path(), over, options); }, "expected a place apart from the input",
                 over.string());
}

TEST(CheckpointWriter, SplitsIntoShardsAndWritesTheIndex) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", "{}");
  CheckpointWriter writer(d.path(),
                          {{"a.weight", DType::u8, {60}},
                           {"a.scales", DType::u8, {60}},
                           {"b.weight", DType::u8, {60}},
                           {"c.weight", DType::u8, {40}}},
                          220, 100);
  for (const int size : {60, 60, 60, 40}) writer.append(as_bytes(std::string(size_t(size), 'x')));
  EXPECT_FALSE(std::filesystem::exists(d.path() / "model-00001-of-00002.safetensors"));
  writer.finish();
  const Json index = parse_json(read_bytes(d.path() / "model.safetensors.index.json"), "index");
  EXPECT_EQ(index["weight_map"]["a.scales"], "model-00001-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["b.weight"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["c.weight"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(index["metadata"]["total_size"], 220);
  EXPECT_EQ(Checkpoint::open(d.path())->names().size(), 4u);
}

#if defined(__linux__)
/// Bytes of this process's memory that are pages of `file`.
uint64_t resident_bytes(const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/smaps");
  uint64_t bytes = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) ours = line.ends_with(file.string());
    if (ours && line.starts_with("Rss:")) bytes += std::stoull(line.substr(4)) * 1024;
  }
  return bytes;
}

/// The largest tensors of a model leave memory once both of their halves are written, as all others do.
TEST(QuantizeCheckpoint, LetsGoOfFusedExperts) {
  const TemporaryDirectory d;
  std::filesystem::create_directories(d.path() / "fused");
  write_bytes(d.path() / "fused" / "config.json", R"({"model_type":"qwen3_5_moe_text"})");
  const std::string both = random_bf16(4 * 1024 * 256, 1), down = random_bf16(4 * 256 * 512, 2),
                    norm = random_bf16(256, 3);
  const std::filesystem::path file = d.path() / "fused" / "model.safetensors";
  write_safetensors(file, {{{"model.layers.0.mlp.experts.down_proj", DType::bf16, {4, 256, 512}}, as_bytes(down)},
                           {{"model.layers.0.mlp.experts.gate_up_proj", DType::bf16, {4, 1024, 256}}, as_bytes(both)},
                           {{"model.norm.weight", DType::bf16, {256}}, as_bytes(norm)}});
  RewriteOptions options;
  options.quantize = QuantSpec{4, 64};
  options.threads = 1;
  uint64_t most = 0, last = 0;
  rewrite_checkpoint(d.path() / "fused", d.path() / "out", options, [&](std::string_view tensor, uint64_t, uint64_t) {
    last = resident_bytes(file);
    most = std::max(most, last);
    EXPECT_FALSE(tensor.empty());
  });
  if (most == 0) GTEST_SKIP() << "no memory of mapped files is told here";
  EXPECT_GE(most, both.size() / 2);
  EXPECT_LE(most, both.size() + (256 << 10)) << "down is gone";
  EXPECT_LE(last, 256u << 10) << "and so are gate and up";
}
#endif

}  // namespace
}  // namespace bumblebee
