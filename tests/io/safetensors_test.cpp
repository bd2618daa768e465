// Reading what others write (MLX's null metadata and unaligned data), writing what others read, and files that appear
// whole.
#include "io/safetensors.h"

#include "base/float16.h"
#include "tests/io/files.h"

namespace bumblebee {
namespace {

using namespace test;

std::string bytes_of(const SafetensorsFile& file, const char* name) {
  const auto bytes = file.bytes(*file.find(name));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Safetensors, ReadsEveryDtype) {
  const std::pair<const char*, DType> all[] = {
      {"F64", DType::f64},         {"F32", DType::f32},         {"F16", DType::f16},         {"BF16", DType::bf16},
      {"F8_E4M3", DType::f8_e4m3}, {"F8_E5M2", DType::f8_e5m2}, {"F8_E8M0", DType::f8_e8m0}, {"I64", DType::i64},
      {"I32", DType::i32},         {"I16", DType::i16},         {"I8", DType::i8},           {"U64", DType::u64},
      {"U32", DType::u32},         {"U16", DType::u16},         {"U8", DType::u8},           {"BOOL", DType::boolean},
      {"C64", DType::c64}};
  for (const auto& [name, dtype] : all) {
    const size_t size = 3 * size_t(size_of(dtype));
    const std::string text = safetensors("{" + entry("t", name, "[3]", 0, size) + "}", std::string(size, 'x'));
    const auto file = SafetensorsFile::parse(as_bytes(text), "memory");
    ASSERT_EQ(file->tensors().size(), 1u) << name;
    EXPECT_EQ(file->tensors()[0].dtype, dtype) << name;
    EXPECT_EQ(bytes_of(*file, "t"), std::string(size, 'x'));
    EXPECT_EQ(safetensors_name(dtype), name);
  }
}

TEST(Safetensors, ReadsNullMetadataAndUnalignedData) {
  // As MLX writes adapters: null metadata, no padding, tensors in any order of names.
  std::string header =
      "{\"__metadata__\":null," + entry("b", "F32", "[1]", 3, 7) + "," + entry("a", "U8", "[3]", 0, 3) + "}";
  while (header.size() % 8 != 1) header += ' ';
  const std::string text = safetensors(header, "abcDEFG");
  const auto file = SafetensorsFile::parse(as_bytes(text), "memory");
  EXPECT_EQ(bytes_of(*file, "a"), "abc");
  EXPECT_EQ(bytes_of(*file, "b"), "DEFG");
  EXPECT_TRUE(file->metadata().empty());
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->find("c"), nullptr);
}

TEST(Safetensors, ReadsMetadataScalarsEmptyTensorsAndExtraKeys) {
  const std::string text = safetensors(
      R"({"__metadata__":{"format":"mlx","x":""},"s":{"dtype":"F16","shape":[],"data_offsets":[0,2]},)"
      R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[2,2],"more":{"a":[1,{"b":null}]},"flag":true}}   )",
      "hi");
  const auto file = SafetensorsFile::parse(as_bytes(text), "memory");
  EXPECT_EQ(file->metadata().at("format"), "mlx");
  EXPECT_EQ(file->metadata().size(), 2u);
  EXPECT_TRUE(file->find("s")->shape.empty());
  EXPECT_EQ(file->find("e")->shape, (std::vector<uint64_t>{0, 7}));
  EXPECT_EQ(bytes_of(*file, "s"), "hi");
  EXPECT_TRUE(file->bytes(*file->find("e")).empty());
}

TEST(Safetensors, AnEmptyFileOfTensorsIsAFile) {
  const std::string text = safetensors("{}", "");
  EXPECT_TRUE(SafetensorsFile::parse(as_bytes(text), "memory")->tensors().empty());
}

TEST(Safetensors, WritesAlignedAndReadsBack) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "x.safetensors";
  {
    SafetensorsWriter writer(path, {{"z", DType::u8, {3}}, {"empty", DType::f32, {0}}, {"a", DType::u32, {2, 1}}},
                             {{"format", "mlx"}});
    EXPECT_FALSE(std::filesystem::exists(path)) << "it appeared before it was finished";
    EXPECT_EQ(writer.current()->name, "z");
    writer.append(as_bytes("x"));
    writer.append(as_bytes("yz"));
    EXPECT_EQ(writer.current()->name, "a");
    writer.append(as_bytes("12345678"));
    EXPECT_EQ(writer.current(), nullptr);
    writer.finish();
  }
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(bytes_of(*file, "z"), "xyz");
  EXPECT_EQ(bytes_of(*file, "a"), "12345678");
  EXPECT_EQ(file->find("a")->shape, (std::vector<uint64_t>{2, 1}));
  EXPECT_EQ(file->find("z")->begin % 8, 0u);
  EXPECT_EQ(file->metadata().at("format"), "mlx");
}

TEST(Safetensors, AnUnfinishedFileLeavesTheOldOneAndNothingElse) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "x.safetensors";
  write_bytes(path, "old");
  {
    SafetensorsWriter writer(path, {{"a", DType::u8, {4}}});
    writer.append(as_bytes("ab"));
  }
  EXPECT_EQ(read_bytes(path), "old");
  int files = 0;
  for ([[maybe_unused]] const auto& found : std::filesystem::directory_iterator(directory.path())) ++files;
  EXPECT_EQ(files, 1);
  write_safetensors(path, {{{"a", DType::u8, {2}}, as_bytes("ab")}});
  EXPECT_EQ(bytes_of(*SafetensorsFile::open(path), "a"), "ab");
}

TEST(Safetensors, WriterNamesTheFileItCannotCreate) {
  expect_error([] { SafetensorsWriter("/nonexistent-directory/x.safetensors", {}); },
               "/nonexistent-directory/x.safetensors", "writer");
  expect_error([] { SafetensorsFile::open("/nonexistent-directory/x.safetensors"); },
               "/nonexistent-directory/x.safetensors", "reader");
}

TEST(Safetensors, ReadsTheFilesOfTheFormatsOwnLibrary) {
  const auto file = SafetensorsFile::open(BB_TEST_DATA "/gguf/tiny.safetensors");
  EXPECT_EQ(file->find("model.norm.weight")->shape, (std::vector<uint64_t>{64}));
  EXPECT_EQ(file->find("model.embed_tokens.weight")->dtype, DType::f32);
}

}  // namespace
}  // namespace bumblebee
