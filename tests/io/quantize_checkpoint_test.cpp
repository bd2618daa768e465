// Quantizing a directory equals MLX's quantizer tensor by tensor; taking it away gives the decoded values back.
#include "io/quantize_checkpoint.h"

#include <nlohmann/json.hpp>

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

}  // namespace
}  // namespace bumblebee
