// Broken safetensors and GGUF files, made by mutations of good ones: each gives an Error that names the file, and the
// whole set leaves the process no larger than before. The directories and configs that are broken are in
// checkpoint_test and hf_config_test.
#include <cmath>

#include "io/gguf.h"
#include "io/gguf_convert.h"
#include "io/safetensors.h"
#include "tests/io/files.h"

#ifdef __SANITIZE_ADDRESS__
// The sanitizer keeps freed memory back to catch late uses; with its usual 256 MB these tests would measure that.
extern "C" const char* __asan_default_options() { return "quarantine_size_mb=2"; }
#endif

namespace bumblebee {
namespace {

using namespace test;

constexpr size_t kAllowedGrowth = size_t{16} << 20;

struct Case {
  std::string name, bytes, part;
};

const std::string kGoodHeader = "{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "U8", "[3]", 8, 11) + "}";

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                const std::string& data = "12345678") {
  return safetensors("{\"t\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
                     data);
}

std::vector<Case> safetensors_cases() {
  const std::string data = "abcdefghijk";
  return {
      {"empty file", "", "8 bytes"},
      {"seven bytes", "1234567", "8 bytes"},
      {"N = 0", packed(uint64_t{0}), "nothing"},
      {"N = 0 with data", packed(uint64_t{0}) + "{}", "nothing"},
      {"N = 2^63", packed(uint64_t{1} << 63) + "{}", "9223372036854775808"},
      {"N = 2^64-1", packed(~uint64_t{0}) + "{}", "18446744073709551615"},
      {"N = 100,000,001", packed(uint64_t{100'000'001}) + "{}", "100000001"},
      {"N past the end", packed(uint64_t{3}) + "{}", "got 3"},
      {"begins with a space", safetensors(" {}", ""), "'{'"},
      {"begins with [", safetensors("[]", ""), "'{'"},
      {"begins with a byte order mark", safetensors("\xef\xbb\xbf{}", ""), "'{'"},
      {"unclosed", safetensors("{", ""), "JSON"},
      {"only a key", safetensors("{\"a\"}", ""), "JSON"},
      {"text after the object", safetensors("{}x", ""), "JSON"},
      {"second object", safetensors("{}{}", ""), "JSON"},
      {"NUL padding", safetensors(std::string("{}\0\0", 4), ""), "JSON"},
      {"invalid UTF-8", safetensors("{\"\xff\":1}", ""), "JSON"},
      {"lone surrogate", safetensors("{\"\\ud800\":1}", ""), "JSON"},
      {"comment", safetensors("{/**/}", ""), "JSON"},
      {"trailing comma", safetensors("{" + entry("a", "U8", "[0]", 0, 0) + ",}", ""), "JSON"},
      {"entry is a number", safetensors("{\"t\":1}", ""), "'t'"},
      {"entry is null", safetensors("{\"t\":null}", ""), "'t'"},
      {"entry is a string", safetensors("{\"t\":\"x\"}", ""), "'t'"},
      {"entry is an array", safetensors("{\"t\":[]}", ""), "'t'"},
      {"entry is true", safetensors("{\"t\":true}", ""), "'t'"},
      {"empty entry", safetensors("{\"t\":{}}", ""), "'dtype'"},
      {"no dtype", safetensors("{\"t\":{\"shape\":[],\"data_offsets\":[0,1]}}", "x"), "'dtype'"},
      {"no shape", safetensors("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "x"), "'shape'"},
      {"no offsets", safetensors("{\"t\":{\"dtype\":\"U8\",\"shape\":[]}}", "x"), "'data_offsets'"},
      {"dtype unknown", one("\"F4\"", "[8]", "[0,8]"), "'F4'"},
      {"dtype lower case", one("\"f32\"", "[2]", "[0,8]"), "'f32'"},
      {"dtype empty", one("\"\"", "[2]", "[0,8]"), "''"},
      {"dtype number", one("3", "[2]", "[0,8]"), "dtype"},
      {"dtype null", one("null", "[2]", "[0,8]"), "dtype"},
      {"dtype array", one("[\"F32\"]", "[2]", "[0,8]"), "dtype"},
      {"dtype with controls", one("\"\\u001b[31m\"", "[2]", "[0,8]"), "\\x1b[31m"},
      {"dtype twice",
       safetensors("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", "x"),
       "'dtype' given twice"},
      {"shape twice", safetensors("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[],\"data_offsets\":[0,1]}}", "x"),
       "'shape' given twice"},
      {"shape negative", one("\"F32\"", "[-2]", "[0,8]"), "got -2"},
      {"shape fraction", one("\"F32\"", "[2.0]", "[0,8]"), "2.0"},
      {"shape exponent", one("\"F32\"", "[2e0]", "[0,8]"), "2e0"},
      {"shape string", one("\"F32\"", "[\"2\"]", "[0,8]"), "shape"},
      {"shape nested", one("\"F32\"", "[[2]]", "[0,8]"), "shape"},
      {"shape object", one("\"F32\"", "{}", "[0,8]"), "shape"},
      {"shape number", one("\"F32\"", "2", "[0,8]"), "shape"},
      {"shape null", one("\"F32\"", "null", "[0,8]"), "shape"},
      {"shape beyond 64 bits", one("\"F32\"", "[18446744073709551616]", "[0,8]"), "shape"},
      {"shape overflows in two", one("\"U8\"", "[4294967296,4294967296]", "[0,8]"), "overflows"},
      {"shape overflows to its size", one("\"U8\"", "[2305843009213693953,8]", "[0,8]"), "overflows"},
      {"shape overflows with the element", one("\"F32\"", "[4611686018427387906]", "[0,8]"), "overflows"},
      {"shape of 33 dimensions",
       one("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8]", "[0,8]"), "32"},
      {"too few bytes", one("\"F32\"", "[3]", "[0,8]"), "expected 12"},
      {"too many bytes", one("\"F32\"", "[1]", "[0,8]"), "expected 4"},
      {"zero elements, some bytes", one("\"F32\"", "[0]", "[0,8]"), "expected 0"},
      {"offsets one", one("\"F32\"", "[2]", "[8]"), "got 1"},
      {"offsets none", one("\"F32\"", "[2]", "[]"), "got 0"},
      {"offsets three", one("\"F32\"", "[2]", "[0,8,8]"), "more"},
      {"offsets negative", one("\"F32\"", "[2]", "[-8,0]"), "got -8"},
      {"offsets backwards", one("\"F32\"", "[2]", "[8,0]"), "begin <= end"},
      {"offsets huge", one("\"F32\"", "[2]", "[0,18446744073709551615]"), "outside"},
      {"offsets past the end", one("\"F32\"", "[3]", "[0,12]"), "incomplete download"},
      {"offsets wrap", one("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]"), "outside"},
      {"offsets string", one("\"F32\"", "[2]", "[\"0\",8]"), "data_offsets"},
      {"offsets object", one("\"F32\"", "[2]", "{\"begin\":0}"), "data_offsets"},
      {"hole at the beginning", one("\"F32\"", "[1]", "[4,8]"), "hole"},
      {"hole at the end", one("\"F32\"", "[1]", "[0,4]"), "not covered"},
      {"data without tensors", safetensors("{}", "x"), "not covered"},
      {"hole between",
       safetensors("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("b", "U8", "[1]", 2, 3) + "}", "xyz"), "'b'"},
      {"overlap", safetensors("{" + entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", "[2]", 1, 3) + "}", "xyz"),
       "'b'"},
      {"same bytes twice",
       safetensors("{" + entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", "[2]", 0, 2) + "}", "xy"), "overlaps"},
      {"name twice", safetensors("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("a", "U8", "[1]", 1, 2) + "}", "xy"),
       "given twice"},
      {"escaped name twice",
       safetensors("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("\\u0061", "U8", "[1]", 1, 2) + "}", "xy"),
       "given twice"},
      {"metadata is an array", safetensors("{\"__metadata__\":[]}", ""), "__metadata__"},
      {"metadata is a string", safetensors("{\"__metadata__\":\"x\"}", ""), "__metadata__"},
      {"metadata holds a number", safetensors("{\"__metadata__\":{\"k\":1}}", ""), "'k'"},
      {"metadata holds null", safetensors("{\"__metadata__\":{\"k\":null}}", ""), "'k'"},
      {"metadata holds an object", safetensors("{\"__metadata__\":{\"k\":{}}}", ""), "'k'"},
      {"metadata key twice", safetensors("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), "given twice"},
      {"metadata twice", safetensors("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "given twice"},
      {"deep extra value", safetensors("{\"t\":{\"x\":" + std::string(100000, '[') + "}}", ""), "nested"},
      {"deep objects",
       safetensors(
           "{\"t\":{\"x\":" +
               [] {
                 std::string s;
                 for (int i = 0; i < 5000; ++i) s += "{\"a\":";
                 return s;
               }() +
               "1",
           ""),
       "nested"},
      {"good header, no data", safetensors(kGoodHeader, ""), "'a'"},
      {"good header, one byte too few", safetensors(kGoodHeader, data.substr(1)), "'b'"},
      {"good header, one byte too many", safetensors(kGoodHeader, data + "x"), "not covered"},
      {"ten gigabytes claimed", one("\"F32\"", "[2684354560]", "[0,10737418240]"), "outside"},
  };
}

std::string good_gguf() {
  GgufBuilder g;
  g.string("general.architecture", "llama");
  g.u32("n", 7);
  g.strings("list", {"a", "bc"});
  g.tensor("t", {32, 2}, 2, std::string(36, 'x'));
  g.tensor("u", {4}, 0, std::string(16, 'y'));
  return g.bytes();
}

std::string gguf_with(const std::function<void(GgufBuilder&)>& change) {
  GgufBuilder g;
  change(g);
  return g.bytes();
}

std::vector<Case> gguf_cases() {
  const auto tensor = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset, size_t bytes) {
    return gguf_with([&](GgufBuilder& g) {
      g.info("t", dims, type, offset);
      g.data.assign(bytes, 'x');
    });
  };
  const auto header = [](uint32_t version, uint64_t tensors, uint64_t entries) {
    return "GGUF" + packed(version) + packed(tensors) + packed(entries);
  };
  const auto value = [&](uint32_t kind, const std::string& bytes) {
    return gguf_with([&](GgufBuilder& g) { g.raw("key", kind, bytes); });
  };
  return {
      {"empty file", "", "magic"},
      {"three bytes", "GGU", "magic"},
      {"another magic", std::string("GGML") + std::string(60, '\0'), "GGUF"},
      {"no version", "GGUF", "version"},
      {"version 0", header(0, 0, 0), "got 0"},
      {"version 1", header(1, 0, 0), "got 1"},
      {"version 4", header(4, 0, 0), "got 4"},
      {"big-endian", header(0x03000000, 0, 0), "big-endian"},
      {"no counts", std::string("GGUF") + packed(uint32_t{3}), "tensor count"},
      {"2^64-1 tensors", header(3, ~uint64_t{0}, 0), "tensor count"},
      {"2^64-1 entries", header(3, 0, ~uint64_t{0}), "metadata count"},
      {"entries that are not there", header(3, 0, 5), "metadata key 0"},
      {"tensors that are not there", header(3, 5, 0), "tensor 0"},
      {"key of 2^64-1 bytes", header(3, 0, 1) + packed(~uint64_t{0}), "metadata key 0"},
      {"key of 65536 bytes", header(3, 0, 1) + GgufBuilder::text(std::string(65536, 'k')), "metadata key 0"},
      {"type 13", value(13, "xxxxxxxxxxxxxxxx"), "'key'"},
      {"type 2^32-1", value(~uint32_t{0}, "xxxxxxxxxxxxxxxx"), "'key'"},
      {"string past the end", value(8, packed(uint64_t{1000})), "'key'"},
      {"string of 2^63 bytes", value(8, packed(uint64_t{1} << 63)), "'key'"},
      {"array of arrays",
       value(9, packed(uint32_t{9}) + packed(uint64_t{1}) + packed(uint32_t{4}) + packed(uint64_t{0})), "elements"},
      {"array of an unknown type", value(9, packed(uint32_t{77}) + packed(uint64_t{1})), "got 77"},
      {"array of 2^61 u64", value(9, packed(uint32_t{10}) + packed(uint64_t{1} << 61)), "'key'"},
      {"array of 2^63 u8", value(9, packed(uint32_t{0}) + packed(uint64_t{1} << 63)), "'key'"},
      {"array of 2^64-1 strings", value(9, packed(uint32_t{8}) + packed(~uint64_t{0})), "'key'"},
      {"key twice", gguf_with([](GgufBuilder& g) { g.u32("k", 1), g.u32("k", 2); }), "'k' given twice"},
      {"alignment 0", gguf_with([](GgufBuilder& g) { g.u32("general.alignment", 0); }), "general.alignment"},
      {"alignment 24", gguf_with([](GgufBuilder& g) { g.u32("general.alignment", 24); }), "power of two"},
      {"alignment 2^31", gguf_with([](GgufBuilder& g) { g.u32("general.alignment", 1u << 31); }), "general.alignment"},
      {"alignment is a string", gguf_with([](GgufBuilder& g) { g.string("general.alignment", "32"); }),
       "general.alignment"},
      {"no dimensions", tensor({}, 0, 0, 32), "'t'"},
      {"five dimensions", tensor({1, 1, 1, 1, 1}, 0, 0, 32), "got 5"},
      {"a zero dimension", tensor({0, 4}, 0, 0, 32), "zero"},
      {"dimensions overflow", tensor({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0, 32), "overflows"},
      {"bytes overflow", tensor({uint64_t{1} << 62}, 0, 0, 32), "overflows"},
      {"offset overflows", tensor({8}, 0, ~uint64_t{31}, 32), "'t'"},
      {"offset unaligned", tensor({1}, 0, 4, 32), "multiple of 32"},
      {"past the end", tensor({9}, 0, 0, 32), "outside"},
      {"offset past the end", tensor({8}, 0, 64, 32), "outside"},
      {"ten gigabytes claimed", tensor({uint64_t{10} << 28}, 0, 0, 32), "outside"},
      {"row not a multiple of the block", tensor({48}, 2, 0, 64), "multiple of 32"},
      {"K row not a multiple of 256", tensor({128}, 12, 0, 144), "multiple of 256"},
      {"type IQ2_XXS", tensor({256}, 16, 0, 66), "IQ2_XXS"},
      {"type I32", tensor({8}, 26, 0, 32), "I32"},
      {"type MXFP4", tensor({32}, 39, 0, 32), "MXFP4"},
      {"type 2^32-1", tensor({32}, ~uint32_t{0}, 0, 32), "4294967295"},
      {"tensor twice", gguf_with([](GgufBuilder& g) { g.tensor("t", {1}, 0, "1234"), g.tensor("t", {1}, 0, "1234"); }),
       "'t' given twice"},
      {"tensors overlap",
       gguf_with([](GgufBuilder& g) { g.info("t", {16}, 0, 0), g.info("u", {8}, 0, 32), g.data.assign(64, 'x'); }),
       "overlap"},
      {"name of 257 bytes", gguf_with([](GgufBuilder& g) { g.tensor(std::string(257, 'n'), {1}, 0, "1234"); }),
       "name of tensor 0"},
  };
}

class Malformed : public testing::Test {
 protected:
  void SetUp() override { before_ = private_bytes(); }
  void TearDown() override {
    const size_t after = private_bytes();
    EXPECT_LT(after, before_ + kAllowedGrowth) << "bytes before: " << before_;
  }
  size_t before_ = 0;
};

TEST_F(Malformed, SafetensorsFilesGiveNamedErrors) {
  const TemporaryDirectory d;
  const auto path = d.path() / "bad.safetensors";
  const auto cases = safetensors_cases();
  EXPECT_GE(cases.size(), 80u);
  for (const Case& broken : cases) {
    write_bytes(path, broken.bytes);
    expect_error([&] { SafetensorsFile::open(path); }, broken.part, broken.name);
    expect_error([&] { SafetensorsFile::open(path); }, path.string(), broken.name);
  }
}

TEST_F(Malformed, GgufFilesGiveNamedErrors) {
  const TemporaryDirectory d;
  const auto path = d.path() / "bad.gguf";
  const auto cases = gguf_cases();
  EXPECT_GE(cases.size(), 45u);
  for (const Case& broken : cases) {
    write_bytes(path, broken.bytes);
    expect_error([&] { GgufFile::open(path); }, broken.part, broken.name);
    expect_error([&] { GgufFile::open(path); }, path.string(), broken.name);
  }
}

TEST_F(Malformed, TruncatedAnywhere) {
  const std::string tensors = safetensors(kGoodHeader, "abcdefghijk"), gguf = good_gguf();
  EXPECT_EQ(SafetensorsFile::parse(as_bytes(tensors), "good")->tensors().size(), 2u);
  EXPECT_EQ(GgufFile::parse(as_bytes(gguf), "good")->tensors().size(), 2u);
  for (size_t length = 0; length < tensors.size(); ++length) {
    const std::string cut = tensors.substr(0, length);
    expect_error([&] { SafetensorsFile::parse(as_bytes(cut), "cut.safetensors"); }, "cut.safetensors",
                 cat("length ", length));
  }
  const size_t padding = 16;  // behind the last tensor, and not needed
  for (size_t length = 0; length < gguf.size() - padding; ++length) {
    const std::string cut = gguf.substr(0, length);
    expect_error([&] { GgufFile::parse(as_bytes(cut), "cut.gguf"); }, "cut.gguf", cat("length ", length));
  }
}

/// Every byte set to several values: the file is read or refused with an Error, and what is read stays inside the file.
TEST_F(Malformed, AnyByteMayBeAnything) {
  const std::string tensors = safetensors(kGoodHeader, "abcdefghijk"), gguf = good_gguf();
  int refused = 0;
  for (const bool is_gguf : {false, true}) {
    const std::string& good = is_gguf ? gguf : tensors;
    for (size_t at = 0; at < good.size(); ++at) {
      for (const int value : {0, 1, 0x7f, 0x80, 0xff, int(good[at]) ^ 1, int(good[at]) ^ 0x20}) {
        std::string bad = good;
        bad[at] = char(value);
        try {
          uint64_t sum = 0;
          if (is_gguf) {
            const auto file = GgufFile::parse(as_bytes(bad), "flipped");
            for (const GgufTensor& tensor : file->tensors()) {
              for (const std::byte byte : file->bytes(tensor)) sum += uint64_t(byte);
            }
          } else {
            const auto file = SafetensorsFile::parse(as_bytes(bad), "flipped");
            for (const TensorEntry& tensor : file->tensors()) {
              for (const std::byte byte : file->bytes(tensor)) sum += uint64_t(byte);
            }
          }
          EXPECT_LE(sum, 256u * bad.size());
        } catch (const Error& e) {
          ++refused;
          EXPECT_NE(std::string(e.what()).find("flipped"), std::string::npos);
        }
      }
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(Malformed, AHugeSparseFileCostsNothing) {
  const TemporaryDirectory d;
  const auto path = d.path() / "sparse.safetensors";
  for (const std::string& start : {packed(uint64_t{100'000'000}), packed(uint64_t{100'000'000}) + "{",
                                   packed(uint64_t{64}) + std::string(64, '{')}) {
    write_bytes(path, start);
    std::filesystem::resize_file(path, uint64_t{10} << 30);
    expect_error([&] { SafetensorsFile::open(path); }, "sparse.safetensors", "10 GiB");
  }
  write_bytes(path, std::string("GGUF") + packed(uint32_t{3}));
  std::filesystem::resize_file(path, uint64_t{10} << 30);
  EXPECT_TRUE(GgufFile::open(path)->tensors().empty());  // zero tensors, zero keys: a legal file
}

/// The metadata that a conversion needs, each key in turn made wrong.
TEST_F(Malformed, ModelsThatAreNotUnderstoodAreRefusedByName) {
  const auto model = [](const std::function<void(GgufBuilder&)>& more, const std::string& architecture = "llama") {
    GgufBuilder g;
    g.string("general.architecture", architecture);
    g.tensor("token_embd.weight", {32, 4}, 0, std::string(512, '\0'));
    more(g);
    return g.bytes();
  };
  const auto sizes = [](GgufBuilder& g) {
    g.u32("llama.block_count", 1), g.u32("llama.embedding_length", 32), g.u32("llama.feed_forward_length", 32),
        g.u32("llama.attention.head_count", 2);
    g.u32("llama.context_length", 64), g.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  };
  const auto sized = [&](const std::function<void(GgufBuilder&)>& more) {
    return model([&](GgufBuilder& g) { sizes(g), more(g); });
  };
  const std::vector<Case> cases = {
      {"no architecture", gguf_with([](GgufBuilder&) {}), "general.architecture"},
      {"another architecture", model([](GgufBuilder&) {}, "gemma3"), "gemma3"},
      {"architecture with controls", model([](GgufBuilder&) {}, "\x1b]0;x\x07"), "\\x1b"},
      {"no sizes", model([](GgufBuilder&) {}), "llama.block_count"},
      {"no layers", model([](GgufBuilder& g) { g.u32("llama.block_count", 0); }), "llama.block_count"},
      {"four billion layers", model([](GgufBuilder& g) { g.u32("llama.block_count", ~0u); }), "llama.block_count"},
      {"layers is a string", model([](GgufBuilder& g) { g.string("llama.block_count", "1"); }), "llama.block_count"},
      {"experts", sized([](GgufBuilder& g) { g.u32("llama.expert_count", 8); }), "llama.expert_count"},
      {"partial rotation", sized([](GgufBuilder& g) { g.u32("llama.rope.dimension_count", 8); }),
       "rope.dimension_count"},
      {"unknown rope", sized([](GgufBuilder& g) { g.string("llama.rope.scaling.type", "longrope"); }), "longrope"},
      {"unknown key", sized([](GgufBuilder& g) { g.f32("llama.logit_scale", 2); }), "llama.logit_scale"},
      {"not a number", sized([](GgufBuilder& g) { g.f32("llama.rope.freq_base", std::nanf("")); }),
       "llama.rope.freq_base"},
      {"rope factors", sized([](GgufBuilder& g) {
         g.tensor("rope_freqs.weight", {8}, 0, packed(2.0f) + packed(3.0f) + std::string(24, '\0'));
       }),
       "rope_freqs.weight"},
      {"vocabulary size differs", sized([](GgufBuilder& g) { g.u32("llama.vocab_size", 5); }), "llama.vocab_size"},
      {"kv heads exceed heads", sized([](GgufBuilder& g) { g.u32("llama.attention.head_count_kv", 3); }),
       "head_count_kv"},
      {"missing tensor", sized([](GgufBuilder&) {}), "blk.0.attn_norm.weight"},
      {"misshapen tensor",
       sized([](GgufBuilder& g) { g.tensor("blk.0.attn_norm.weight", {16}, 0, std::string(64, '\0')); }),
       "expected [32], got [16]"},
  };
  const TemporaryDirectory d;
  const auto path = d.path() / "bad.gguf";
  for (const Case& broken : cases) {
    write_bytes(path, broken.bytes);
    expect_error([&] { convert_gguf(path, d.path() / "out", {}); }, broken.part, broken.name);
    expect_error([&] { convert_gguf(path, d.path() / "out", {}); }, path.string(), broken.name);
  }
  EXPECT_FALSE(std::filesystem::exists(d.path() / "out"));
}

}  // namespace
}  // namespace bumblebee
