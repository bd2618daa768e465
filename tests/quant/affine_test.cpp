// Affine quantization held to MLX bit for bit: quant.safetensors has the results of its CPU build and of its GPU
// kernels' rules for every width, group and dtype over rows that are odd in every way a group can be
// (tools/goldens/quant.py makes them).
#include "quant/affine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "quant/elements.h"
#include "tests/support/golden_file.h"
#include "tests/support/memory_weights.h"
#include "tests/support/random.h"

namespace bumblebee {
namespace {

using namespace testing_support;

constexpr int kBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kGroups[] = {32, 64, 128};

float rounded(float value, DType dtype) {
  std::byte bytes[4];
  store_float(bytes, dtype, 0, value);
  return load_float(bytes, dtype, 0);
}

const GoldenFile& goldens() {
  static const GoldenFile file("quant.safetensors");
  return file;
}

class AffineGolden : public testing::TestWithParam<DType> {
 protected:
  AffineGolden() : dtype_(GetParam()), name_(to_string(dtype_)), input_(goldens().at(name_ + ".input")) {
    std::istringstream names(goldens().metadata("rows"));
    for (std::string row; names >> row;) rows_.push_back(row);
  }

  /// The rows where two byte arrays of `input_.rows()` equal rows differ, by name; empty when there are none.
  std::string differing(std::span<const std::byte> got, std::span<const std::byte> want) const {
    if (got.size() != want.size()) return cat("sizes: ", got.size(), " and ", want.size());
    std::string text;
    const size_t bytes = want.size() / rows_.size();
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (std::memcmp(got.data() + r * bytes, want.data() + r * bytes, bytes) != 0) text += " " + rows_[r];
    }
    return text;
  }

  const DType dtype_;
  const std::string name_;
  const GoldenTensor& input_;
  std::vector<std::string> rows_;
};

INSTANTIATE_TEST_SUITE_P(DTypes, AffineGolden, testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(to_string(dtype.param)); });

TEST_P(AffineGolden, QuantizesAsBothVariantsDo) {
  ASSERT_EQ(int(rows_.size()), input_.rows());
  const std::vector<float> values = input_.floats();
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const auto& [variant, label] :
           {std::pair(AffineVariant::cpu, "cpu"), std::pair(AffineVariant::gpu, "gpu")}) {
        const std::string key = cat(name_, ".b", bits, ".g", group, ".", label, ".");
        SCOPED_TRACE(key);
        const QuantizedMatrix q = quantize_affine(values, input_.rows(), input_.cols(), bits, group, dtype_, variant);
        EXPECT_EQ(differing(q.scales, goldens().at(key + "scales").bytes), "") << "scales";
        EXPECT_EQ(differing(q.biases, goldens().at(key + "biases").bytes), "") << "biases";
        EXPECT_EQ(differing(q.codes, goldens().at(key + "weight").bytes), "") << "codes";
      }
    }
  }
}

TEST_P(AffineGolden, DecodesAsMlxDoes) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      const std::string key = cat(name_, ".b", bits, ".g", group, ".cpu.");
      SCOPED_TRACE(key);
      const int rows = input_.rows(), cols = input_.cols();
      const HostWeight weight{Format::affine(bits, group, dtype_, dtype_),
                              rows,
                              cols,
                              goldens().at(key + "weight").bytes,
                              goldens().at(key + "scales").bytes,
                              goldens().at(key + "biases").bytes,
                              "golden",
                              nullptr};
      const std::vector<float> want = goldens().at(key + "decoded").floats();
      std::vector<float> narrow(static_cast<size_t>(cols));
      std::vector<double> wide(static_cast<size_t>(cols));
      std::vector<uint8_t> codes(static_cast<size_t>(cols));
      for (int r = 0; r < rows; ++r) {
        decode_row<float>(weight, r, narrow);
        decode_row<double>(weight, r, wide);
        unpack_codes(weight.codes.subspan(size_t(r) * row_bytes(weight.format, cols)), bits, 0, codes);
        for (int c = 0; c < cols; ++c) {
          const size_t g = size_t(r) * size_t(cols / group) + size_t(c / group);
          const float scale = load_float(weight.scales, dtype_, g), bias = load_float(weight.biases, dtype_, g);
          // MLX multiplies, then adds, each rounded to the dtype of the scales; ours keeps the wider type.
          const float product = scale * float(codes[size_t(c)]);
          ASSERT_EQ(rounded(rounded(product, dtype_) + bias, dtype_), want[size_t(r) * size_t(cols) + size_t(c)])
              << rows_[size_t(r)] << " " << c;
          ASSERT_EQ(narrow[size_t(c)], product + bias) << rows_[size_t(r)] << " " << c;
          ASSERT_EQ(wide[size_t(c)], double(scale) * codes[size_t(c)] + double(bias)) << rows_[size_t(r)] << " " << c;
        }
      }
    }
  }
}

/// Vectors of the format description, derived by hand: one group of 32, bf16 storage, U32 words.
struct Published {
  const char* name;
  int bits;
  AffineVariant variant;
  uint16_t scale, bias;
  std::vector<uint32_t> words;
};

std::vector<float> input_a() {
  std::vector<float> w(32);
  for (int i = 0; i < 32; ++i) w[size_t(i)] = float(i - 13) / 16;
  return w;
}

std::vector<float> input_b2() {
  std::vector<float> w(32);
  for (int i = 0; i < 32; ++i) w[size_t(i)] = -float(i + 33) / 32;
  return w;
}

void expect_vector(const std::vector<float>& input, const Published& p, DType storage = DType::bf16) {
  SCOPED_TRACE(cat(p.name, " ", p.bits, "-bit"));
  const QuantizedMatrix q = quantize_affine(input, 1, 32, p.bits, 32, storage, p.variant);
  uint16_t scale, bias;
  std::memcpy(&scale, q.scales.data(), 2);
  std::memcpy(&bias, q.biases.data(), 2);
  EXPECT_EQ(scale, p.scale);
  EXPECT_EQ(bias, p.bias);
  std::vector<uint32_t> words(size_t(p.bits));
  ASSERT_EQ(q.codes.size(), words.size() * 4);
  std::memcpy(words.data(), q.codes.data(), q.codes.size());
  EXPECT_EQ(words, p.words);
}

TEST(Affine, GivesThePublishedVectors) {
  constexpr auto cpu = AffineVariant::cpu, gpu = AffineVariant::gpu;
  for (const auto variant : {cpu, gpu}) {
    expect_vector(input_a(), {"A", 2, variant, 0xbf10, 0x3f90, {0xaaabffff, 0x0015555a}});
    expect_vector(input_a(), {"A", 3, variant, 0xbe90, 0x3f90, {0x6dbb6dbf, 0x26db9249, 0x00124a49}});
    expect_vector(input_a(),
                  {"A", 5, variant, 0xbd80, 0x3f90, {0x75be77df, 0x3a56d7c6, 0x35cf8465, 0xc74254b6, 0x00443214}});
    expect_vector(std::vector<float>(32, 0.0f), {"zeros", 4, variant, 0xb3d7, 0, {0, 0, 0, 0}});
    expect_vector(std::vector<float>(32, 0.0f), {"zeros f16", 4, variant, 0x8002, 0, {0, 0, 0, 0}}, DType::f16);
    expect_vector(std::vector<float>(32, 0.5f), {"all 0.5", 4, variant, 0xb3d7, 0x3f00, {0, 0, 0, 0}});
  }
  expect_vector(input_a(), {"A", 4, gpu, 0xbe00, 0x3f90, {0xcddeefff, 0x899aabbc, 0x45566778, 0x01122334}});
  expect_vector(input_a(), {"A", 4, cpu, 0xbe00, 0x3f90, {0xccdeeeff, 0x889aaabc, 0x44566678, 0x00122234}});
  expect_vector(
      input_a(),
      {"A", 6, gpu, 0xbcf9, 0x3f90, {0x78ebcfbf, 0xbb6fc73d, 0x863967a6, 0x5765b75f, 0xa30e4135, 0x00210620}});
  expect_vector(
      input_a(),
      {"A", 6, cpu, 0xbcf9, 0x3f90, {0x78ebcfbf, 0xbb6fc73d, 0x863967a6, 0x5765b75f, 0xa30e4125, 0x00210620}});
  expect_vector(input_a(),
                {"A",
                 8,
                 gpu,
                 0xbbf9,
                 0x3f90,
                 {0xe6eef7ff, 0xc5ced6de, 0xa4adb5bd, 0x848c949c, 0x636b737b, 0x424a525a, 0x2129313a, 0x00081019}});
  expect_vector(input_b2(), {"B2", 4, gpu, 0x3e09, 0xc000, {0x66667777, 0x44445555, 0x22233334, 0x00011112}});
  expect_vector(input_b2(), {"B2", 4, cpu, 0x3d84, 0xc000, {0xccddeeff, 0x8899aabb, 0x44556677, 0x00112233}});
  expect_vector(std::vector<float>(32, -0.5f), {"all -0.5", 4, gpu, 0x3d09, 0xbf00, {0, 0, 0, 0}});
  expect_vector(std::vector<float>(32, -0.5f), {"all -0.5", 4, cpu, 0xb3d7, 0xbf00, {0, 0, 0, 0}});
}

TEST(PackCodes, RoundTripsEveryWidthAtEveryGroup) {
  Random random(3);
  for (const int bits : kBits) {
    std::vector<uint8_t> codes(256), back(32);
    for (uint8_t& code : codes) code = uint8_t(random.integer(0, (1 << bits) - 1));
    std::vector<std::byte> packed(codes.size() * size_t(bits) / 8);
    pack_codes(codes, bits, packed);
    for (int first = 0; first < 256; first += 32) {
      unpack_codes(packed, bits, first, back);
      EXPECT_TRUE(std::equal(back.begin(), back.end(), codes.begin() + first)) << bits << " bits at " << first;
    }
  }
}

TEST(PackCodes, IsALittleEndianBitStream) {
  for (const int bits : kBits) {
    for (int i = 0; i < 32; ++i) {  // one code of all ones among zeros
      std::vector<uint8_t> codes(32, 0);
      codes[size_t(i)] = uint8_t((1 << bits) - 1);
      std::vector<std::byte> packed(size_t(bits) * 4);
      pack_codes(codes, bits, packed);
      for (int bit = 0; bit < bits * 32; ++bit) {
        const bool set = (std::to_integer<int>(packed[size_t(bit / 8)]) >> (bit % 8) & 1) != 0;
        ASSERT_EQ(set, bit / bits == i) << bits << " bits, code " << i << ", stream bit " << bit;
      }
    }
  }
}

TEST(LoadFloat, ReadsUnalignedBytes) {
  std::vector<std::byte> bytes(13);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const auto odd = std::span(bytes).subspan(1);
    for (size_t i = 0; i < 3; ++i) store_float(odd, dtype, i, 1.5f - float(i));
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(load_float(odd, dtype, i), 1.5f - float(i));
  }
}

/// The error is at most half a step, plus what rounding the stored scale and bias costs: top·|Δscale| + |Δbias|.
TEST(QuantizeAffine, StaysWithinHalfAStep) {
  Random random(11);
  for (const DType storage : {DType::f32, DType::f16, DType::bf16}) {
    const double unit = storage == DType::f32 ? 0x1p-24 : storage == DType::f16 ? 0x1p-11 : 0x1p-8;
    for (const int bits : kBits) {
      std::vector<float> values = random.normals(4 * 128, 0.05);
      for (float& v : values) v = rounded(v, storage);
      const QuantizedMatrix q = quantize_affine(values, 4, 128, bits, 64, storage, AffineVariant::cpu);
      const HostWeight weight{
          Format::affine(bits, 64, storage, storage), 4, 128, q.codes, q.scales, q.biases, "q", nullptr};
      std::vector<double> row(128);
      const double top = (1 << bits) - 1;
      for (int r = 0; r < 4; ++r) {
        decode_row<double>(weight, r, row);
        for (int c = 0; c < 128; ++c) {
          const size_t g = size_t(r) * 2 + size_t(c / 64);
          const double scale = std::abs(double(load_float(q.scales, storage, g))),
                       bias = std::abs(double(load_float(q.biases, storage, g)));
          // The scale is stretched so that the edge is a whole number of steps: the far end may miss by half a step
          // more.
          const double bound = scale * (1 + 1e-6) + top * scale * unit * 2 + bias * unit * 2;
          EXPECT_NEAR(row[size_t(c)], double(values[size_t(r) * 128 + size_t(c)]), bound) << bits << " bits";
        }
      }
    }
  }
}

TEST(QuantizeAffine, RefusesWhatMlxDoesNotHave) {
  const auto error = [](int in, int bits, int group) -> std::string {
    try {
      quantize_affine(std::vector<float>(size_t(in), 1.0f), 1, in, bits, group, DType::f32, AffineVariant::cpu);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::bad_config);
      return e.what();
    }
    return "no error";
  };
  for (const int bits : {-1, 0, 1, 7, 9, 16}) EXPECT_NE(error(64, bits, 32).find(cat("got ", bits)), std::string::npos);
  for (const int group : {0, 16, 48, 256}) EXPECT_NE(error(256, 4, group).find(cat("got ", group)), std::string::npos);
  EXPECT_EQ(error(96, 4, 64), "[quantize] columns: expected a multiple of the group size 64, got 96");
}

TEST(QuantizeAffine, RefusesNumbersThatAreNotFinite) {
  for (const float bad : {float(NAN), float(INFINITY), float(-INFINITY)}) {
    std::vector<float> values(4 * 64, 1.0f);
    values[3 * 64 + 40] = bad;
    try {
      quantize_affine(values, 4, 64, 4, 32, DType::f16, AffineVariant::cpu);
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::bad_file);
      EXPECT_NE(std::string(e.what()).find("row 3: expected a finite number"), std::string::npos) << e.what();
    }
  }
}

TEST(DecodeRow, WidensDenseTypesExactly) {
  Random random(5);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const std::vector<float> values = random.normals(3 * 5, 1);
    const HostWeight weight = dense_weight(values, 3, 5, dtype, {.codes = 1});
    std::vector<double> row(5);
    for (int r = 0; r < 3; ++r) {
      decode_row<double>(weight, r, row);
      for (int c = 0; c < 5; ++c) EXPECT_EQ(row[size_t(c)], double(rounded(values[size_t(r) * 5 + size_t(c)], dtype)));
    }
  }
}

}  // namespace
}  // namespace bumblebee
