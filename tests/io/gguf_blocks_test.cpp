// Every block format against the values that the Python package `gguf` decodes (tools/goldens/gguf_files.py).
#include "io/gguf_blocks.h"

#include "io/safetensors.h"
#include "tests/io/files.h"

namespace bumblebee {
namespace {

TEST(GgufBlocks, DecodeAsThePythonPackageDoes) {
  const std::pair<const char*, GgufType> types[] = {
      {"Q4_0", GgufType::q4_0}, {"Q4_1", GgufType::q4_1}, {"Q5_0", GgufType::q5_0},     {"Q5_1", GgufType::q5_1},
      {"Q8_0", GgufType::q8_0}, {"Q2_K", GgufType::q2_k}, {"Q3_K", GgufType::q3_k},     {"Q4_K", GgufType::q4_k},
      {"Q5_K", GgufType::q5_k}, {"Q6_K", GgufType::q6_k}, {"IQ4_NL", GgufType::iq4_nl}, {"IQ4_XS", GgufType::iq4_xs}};
  const auto file = SafetensorsFile::open(BB_TEST_DATA "/gguf/blocks.safetensors");
  for (const auto& [name, type] : types) {
    EXPECT_EQ(gguf_type_name(type), name);
    const auto blocks = file->bytes(*file->find(std::string(name) + ".blocks")),
               wanted = file->bytes(*file->find(std::string(name) + ".values"));
    std::vector<float> values(wanted.size() / 4), expected(values.size());
    std::memcpy(expected.data(), wanted.data(), wanted.size());
    decode_gguf(type, blocks, values);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], expected[i]) << name << " element " << i;
  }
}

TEST(GgufBlocks, SplitGroupsMeanTheSame) {
  const auto file = SafetensorsFile::open(BB_TEST_DATA "/gguf/blocks.safetensors");
  for (const GgufType type : {GgufType::q4_0, GgufType::q4_1, GgufType::q5_0, GgufType::q5_1, GgufType::q8_0}) {
    const auto blocks = file->bytes(*file->find(gguf_type_name(type) + ".blocks"));
    const size_t size = size_t(gguf_block(type)->bytes);
    for (size_t at = 0; at < blocks.size(); at += size) {
      const GgufGroup group = split_gguf_block(type, blocks.data() + at);
      std::vector<float> values(32);
      decode_gguf(type, blocks.subspan(at, size), values);
      for (size_t j = 0; j < 32; ++j) {
        ASSERT_LT(group.codes[j], 1 << gguf_affine(type)->bits);
        ASSERT_EQ(group.scale * float(group.codes[j]) + group.bias, values[j]) << gguf_type_name(type);
      }
    }
  }
}

TEST(GgufBlocks, DenseTypes) {
  const std::string f16 = test::packed(uint16_t{0x3c00}) + test::packed(uint16_t{0xc000}),
                    bf16 = test::packed(uint16_t{0x3f80}) + test::packed(uint16_t{0xc000});
  float values[2];
  decode_gguf(GgufType::f16, test::as_bytes(f16), values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
  decode_gguf(GgufType::bf16, test::as_bytes(bf16), values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
}

TEST(GgufBlocks, UnknownTypesHaveNamesButNoBlocks) {
  EXPECT_EQ(gguf_type_name(GgufType(16)), "IQ2_XXS");
  EXPECT_EQ(gguf_type_name(GgufType(39)), "MXFP4");
  EXPECT_EQ(gguf_type_name(GgufType(4000)), "type 4000");
  for (const uint32_t type : {4u, 5u, 9u, 15u, 16u, 24u, 28u, 31u, 4000u})
    EXPECT_FALSE(gguf_block(GgufType(type))) << type;
}

}  // namespace
}  // namespace bumblebee
