// Float codes in the files of MLX and of other tools: what fits together and what does not.
#include "base/error.h"
#include "io/checkpoint.h"
#include "quant/elements.h"
#include "tests/io/pieces.h"

namespace bumblebee {
namespace {

using namespace test;

TEST(Checkpoint, RefusesFloatCodesThatDisagree) {
  constexpr const char
      *kNone = "{}",
      *kMxfp4 = R"({"quantization":{"mode":"mxfp4"}})",
      *kModelopt = R"({"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4"}})",
      *kBlocks = R"({"quantization_config":{"quant_method":"fp8","scale_fmt":"ue8m0","weight_block_size":[32,32]}})";
  const std::vector<Piece> mxfp4 = {dense("m.weight", DType::u32, {2, 8}), dense("m.scales", DType::u8, {2, 2})},
                           nvfp4 = {dense("m.weight", DType::u32, {2, 8}), dense("m.scales", DType::u8, {2, 4})},
                           modelopt = {dense("m.weight", DType::u8, {2, 32}),
                                       dense("m.weight_scale", DType::f8_e4m3, {2, 4}),
                                       dense("m.weight_scale_2", DType::f32, {})},
                           blocks = {dense("m.weight", DType::f8_e4m3, {2, 64}),
                                     dense("m.weight_scale_inv", DType::f8_e8m0, {1, 2})};
  const auto and_piece = [](std::vector<Piece> pieces, const std::string& name, DType dtype,
                            std::vector<uint64_t> shape) {
    pieces.push_back(dense(name, dtype, std::move(shape)));
    return pieces;
  };
  const Broken cases[] = {
      {"an entry says affine", R"({"quantization":{"m":{"bits":4,"group_size":32}}})", mxfp4,
       "says 4-bit group 32, but weight [2, 8] and scales [2, 2] of type u8 are mxfp4"},
      {"an entry says nvfp4", R"({"quantization":{"m":{"mode":"nvfp4"}}})", mxfp4, "says nvfp4"},
      {"true of another top level", R"({"quantization":{"mode":"mxfp8","m":true}})", mxfp4, "says mxfp8"},
      {"an entry says mxfp4 of affine tensors", R"({"quantization":{"m":{"mode":"mxfp4"}}})",
       quantized("m", 2, 64, 4, 32), "says mxfp4, but scales of type f16 and biases are affine"},
      {"an entry says dense", R"({"quantization":{"mode":"mxfp4","m":false}})", mxfp4, "says false"},
      {"a product that is none", kMxfp4, with(mxfp4, 1, DType::u8, {2, 3}), "expected those of mxfp4, mxfp8 or nvfp4"},
      {"no groups", kMxfp4, with(mxfp4, 1, DType::u8, {2, 0}), "expected those of mxfp4"},
      {"scales of a type of nvfp4", kMxfp4, with(mxfp4, 1, DType::f8_e4m3, {2, 2}), "of type f8_e4m3"},
      {"scales of a type of mxfp4", kMxfp4, with(nvfp4, 1, DType::f8_e8m0, {2, 4}), "of type f8_e8m0"},
      {"scales with other rows", kMxfp4, with(mxfp4, 1, DType::u8, {3, 2}), "scales [3, 2]"},
      {"weight u8 under MLX's names", kMxfp4, with(mxfp4, 0, DType::u8, {2, 32}), "expected u32, got u8"},
      {"weight bf16", kMxfp4, with(mxfp4, 0, DType::bf16, {2, 64}), "expected u32, got bf16"},
      {"other inputs",
       kMxfp4,
       {dense("m.weight", DType::u32, {2, 4}), dense("m.scales", DType::u8, {2, 1})},
       "with 32 inputs"},
      {"global scale of mxfp4", kMxfp4, and_piece(mxfp4, "m.global_scale", DType::f32, {1}), "belongs to nvfp4"},
      {"global scale of affine", kConfig, and_piece(quantized("m", 2, 64, 4, 32), "m.global_scale", DType::f32, {1}),
       "belongs to nvfp4, got affine"},
      {"global scale of two", kNone, and_piece(nvfp4, "m.global_scale", DType::f32, {2}), "one for each of 1 matrices"},
      {"global scale bf16", kNone, and_piece(nvfp4, "m.global_scale", DType::bf16, {1}), "expected f32"},
      {"global scale that an entry has alone", R"({"quantization":{"m":{"mode":"nvfp4","global_scale":true}}})", nvfp4,
       "no such tensor"},
      {"ModelOpt, weight u32", kModelopt, with(modelopt, 0, DType::u32, {2, 8}), "expected u8, got u32"},
      {"ModelOpt, scales of bf16", kModelopt, with(modelopt, 1, DType::bf16, {2, 4}), "expected one byte each"},
      {"ModelOpt, groups of 32", kModelopt, with(modelopt, 1, DType::f8_e4m3, {2, 2}), "scales [2, 2]"},
      {"ModelOpt, no method", kNone, modelopt, "m.weight"},
      {"blocks of other rows", kBlocks, with(blocks, 1, DType::f8_e8m0, {2, 2}), "scales [2, 2]"},
      {"blocks, weight e5m2", kBlocks, with(blocks, 0, DType::f8_e5m2, {2, 64}), "expected f8_e4m3"},
  };
  expect_refusals(cases);
}

TEST(Checkpoint, ScalesOfTheCacheAreNotAskedForWhereverTheyLie) {
  const TemporaryDirectory d;
  write_bytes(
      d.path() / "config.json",
      R"({"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4","kv_cache_quant_algo":"FP8"}})");
  save(d.path() / "model.safetensors",
       {dense("model.layers.0.self_attn.k_proj.weight", DType::bf16, {2, 64}),
        dense("model.layers.0.self_attn.k_proj.k_scale", DType::f32, {}),
        dense("model.layers.0.self_attn.v_scale", DType::f32, {1}), dense("odd.scale", DType::f32, {1})});
  EXPECT_EQ(Checkpoint::open(d.path())->unclaimed(),
            (std::vector<std::string>{"model.layers.0.self_attn.k_proj.weight", "odd.scale"}));
}

TEST(Checkpoint, AModelOptFileOfTheCacheAloneSaysNothingOfWeights) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", R"({"model_type":"llama"})");
  for (const char* none : {R"({"quantization":{"quant_algo":null,"kv_cache_quant_algo":"FP8"}})", "{}"}) {
    write_bytes(d.path() / "hf_quant_config.json", none);
    EXPECT_FALSE(HfConfig::open(d.path()).quantization.present()) << none;
  }
  write_bytes(d.path() / "hf_quant_config.json", R"({"quantization":{"quant_algo":"NVFP4"}})");
  EXPECT_TRUE(HfConfig::open(d.path()).quantization.present());
}

/// As OpenAI's own files have gpt-oss's experts: rows of gate and up in turns.
TEST(Checkpoint, ExpertsInBlocks) {
  const TemporaryDirectory d;
  write_bytes(d.path() / "config.json", R"({"quantization_config":{"quant_method":"mxfp4"}})");
  save(d.path() / "model.safetensors",
       {dense("m.gate_up_proj_blocks", DType::u8, {2, 6, 2, 16}), dense("m.gate_up_proj_scales", DType::u8, {2, 6, 2}),
        dense("m.gate_up_proj_bias", DType::bf16, {2, 6}), dense("m.down_proj_blocks", DType::u8, {2, 5, 2, 16}),
        dense("m.down_proj_scales", DType::u8, {2, 5, 2})});
  auto checkpoint = Checkpoint::open(d.path());
  const HostWeight gate = checkpoint->experts("m.gate_proj", 2, 3, 64), up = checkpoint->experts("m.up_proj", 2, 3, 64),
                   down = checkpoint->experts("m.down_proj", 2, 5, 64);
  EXPECT_EQ(gate.format, Format::mxfp4());
  EXPECT_EQ(gate.codes_stride, 64u);
  EXPECT_EQ(gate.scales_stride, 4u);
  EXPECT_EQ(up.codes.data(), gate.codes.data() + 32);
  EXPECT_EQ(up.scales.data(), gate.scales.data() + 2);
  EXPECT_EQ(down.codes_stride, 0u);
  for (const HostWeight* stack : {&gate, &up, &down}) {
    for (int e = 0; e < 2; ++e) {
      const HostWeight one = expert_of(*stack, e), rows = contiguous(one);
      EXPECT_EQ(one.codes.data(), stack->codes.data() + e * stack->out * (stack == &down ? 32 : 64));
      EXPECT_EQ(rows.codes.size(), size_t(stack->out) * 32);
      EXPECT_EQ(rows.scales.size(), size_t(stack->out) * 2);
      for (int r = 0; r < stack->out; ++r) {
        std::vector<float> a(64), b(64);
        decode_row<float>(one, r, a);
        decode_row<float>(rows, r, b);
        EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), [](float x, float y) { return x == y || x != x; }));
      }
    }
  }
  EXPECT_EQ(checkpoint->vectors("m.gate_proj.bias", 2, 3).codes.size(), 12u);
  EXPECT_EQ(checkpoint->vectors("m.up_proj.bias", 2, 3).in, 6);
  EXPECT_TRUE(checkpoint->unclaimed().empty());
  expect_error([&] { checkpoint->experts("m.gate_proj", 2, 4, 64); }, "expected u8 [2, 8, 2, 16]", "other rows");
  expect_error([&] { checkpoint->experts("m.down_proj", 2, 5, 32); }, "expected u8 [2, 5, 1, 16]", "other inputs");
  expect_error([&] { checkpoint->experts("m.other_proj", 2, 5, 64); }, "'m.other_proj.weight'", "none");
  expect_error([&] { checkpoint->vectors("m.up_proj.bias", 2, 4); }, "expected floats [2, 8]", "other biases");
  expect_error([&] { checkpoint->vectors("m.down_proj.bias", 2, 5); }, "'m.down_proj.bias'", "no biases");
}

}  // namespace
}  // namespace bumblebee
