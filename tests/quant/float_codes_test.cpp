// Float codes held to MLX bit for bit: float_codes.safetensors has the results of its CPU build over rows that are odd
// in every way a group can be (tools/goldens/float_codes.py makes them).
#include "quant/float_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "quant/elements.h"
#include "tests/support/golden_file.h"

namespace bumblebee {
namespace {

using namespace testing_support;

const GoldenFile& float_goldens() {
  static const GoldenFile file("float_codes.safetensors");
  return file;
}

constexpr QuantMode kModes[] = {QuantMode::mxfp4, QuantMode::mxfp8, QuantMode::nvfp4};

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

HostWeight stored(const std::string& key, const Format& format, int rows, int cols) {
  return {format, rows, cols,   float_goldens().at(key + "weight").bytes, float_goldens().at(key + "scales").bytes,
          {},     key,  nullptr};
}

TEST(FloatCodes, E2m1) {
  const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(decode_e2m1(uint8_t(i)), values[i]);
    EXPECT_EQ(decode_e2m1(uint8_t(8 + i)), -values[i]);
  }
  EXPECT_TRUE(std::signbit(decode_e2m1(8)));
}

TEST(FloatCodes, E4m3AndBack) {
  EXPECT_EQ(decode_e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(decode_e4m3(0x08), 0x1p-6f);
  EXPECT_EQ(decode_e4m3(0x38), 1.0f);
  EXPECT_EQ(decode_e4m3(0x7e), 448.0f);
  EXPECT_EQ(decode_e4m3(0xfe), -448.0f);
  for (int code = 0; code < 256; ++code) {
    if ((code & 127) == 127) continue;
    const float value = decode_e4m3(uint8_t(code));
    EXPECT_EQ(encode_e4m3(value), code);
    // Half way to the next larger magnitude goes to the even of both.
    if ((code & 127) >= 126) continue;
    const float next = decode_e4m3(uint8_t(code + 1)), middle = (value + next) / 2;
    EXPECT_EQ(encode_e4m3(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(encode_e4m3(std::nextafter(middle, value)), code);
    EXPECT_EQ(encode_e4m3(std::nextafter(middle, next)), code + 1);
  }
  EXPECT_EQ(encode_e4m3(1e30f), 0x7e);
  EXPECT_EQ(encode_e4m3(-INFINITY), 0xfe);
}

TEST(FloatCodes, E8m0) {
  EXPECT_EQ(decode_e8m0(0), 0x1p-127f);
  EXPECT_EQ(decode_e8m0(1), 0x1p-126f);
  EXPECT_EQ(decode_e8m0(127), 1.0f);
  EXPECT_EQ(decode_e8m0(254), 0x1p127f);
  EXPECT_EQ(decode_e8m0(255), INFINITY);
}

class FloatCodesGolden : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, FloatCodesGolden, testing::Values(DType::f32, DType::f16, DType::bf16),
                         [](const auto& dtype) { return std::string(to_string(dtype.param)); });

TEST_P(FloatCodesGolden, QuantizesAndDecodesAsMlxDoes) {
  const std::string dtype(to_string(GetParam()));
  const GoldenTensor& input = float_goldens().at(dtype + ".input");
  const std::vector<float> values = input.floats();
  const int rows = input.rows(), cols = input.cols();
  std::vector<std::string> names;
  std::istringstream text(float_goldens().metadata("rows"));
  for (std::string name; text >> name;) names.push_back(name);
  ASSERT_EQ(int(names.size()), rows);
  for (const QuantMode mode : kModes) {
    const std::string key = cat(dtype, ".", to_string(mode), ".");
    const Format format = format_of(QuantSpec::of(mode), GetParam());
    const HostWeight want = stored(key, format, rows, cols);
    const QuantizedMatrix got = quantize_as(QuantSpec::of(mode), values, rows, cols, GetParam(), AffineVariant::cpu);
    EXPECT_TRUE(got.biases.empty());
    const size_t codes = want.codes.size() / size_t(rows), scales = want.scales.size() / size_t(rows);
    const std::vector<float> decoded = float_goldens().at(key + "decoded").floats();
    std::vector<float> narrow(static_cast<size_t>(cols));
    std::vector<double> wide(static_cast<size_t>(cols));
    for (int r = 0; r < rows; ++r) {
      SCOPED_TRACE(key + names[size_t(r)]);
      const std::span<const std::byte> mine = got.codes, my_scales = got.scales;
      EXPECT_TRUE(
          same_bytes(my_scales.subspan(size_t(r) * scales, scales), want.scales.subspan(size_t(r) * scales, scales)));
      EXPECT_TRUE(same_bytes(mine.subspan(size_t(r) * codes, codes), want.codes.subspan(size_t(r) * codes, codes)));
      decode_row<float>(want, r, narrow);
      decode_row<double>(want, r, wide);
      for (int c = 0; c < cols; ++c) {
        ASSERT_EQ(narrow[size_t(c)], decoded[size_t(r) * size_t(cols) + size_t(c)]) << c;
        ASSERT_EQ(float(wide[size_t(c)]), narrow[size_t(c)]) << c;
      }
    }
  }
}

TEST(FloatCodes, GlobalScalesDecodeAsMlxDoes) {
  const std::vector<float> decoded = float_goldens().at("global.decoded").floats();
  const int rows = float_goldens().at("global.decoded").rows(), cols = float_goldens().at("global.decoded").cols();
  HostWeight weight = stored("global.", Format::nvfp4(), rows, cols);
  weight.factors = {float_goldens().at("global.global_scale").floats()[0] / kGlobalUnit};
  std::vector<float> row(static_cast<size_t>(cols));
  for (int r = 0; r < rows; ++r) {
    decode_row<float>(weight, r, row);
    for (int c = 0; c < cols; ++c) ASSERT_EQ(row[size_t(c)], decoded[size_t(r) * size_t(cols) + size_t(c)]);
  }
}

TEST(FloatCodes, RefusesWhatHasNoCode) {
  std::vector<float> values(32, 1.0f);
  EXPECT_THROW(quantize_floats(values, 2, 16, Format::mxfp4(), DType::f32), Error);
  for (const float bad : {INFINITY, std::numeric_limits<float>::quiet_NaN()}) {
    values[7] = bad;
    EXPECT_THROW(quantize_floats(values, 1, 32, Format::mxfp8(), DType::f32), Error);
  }
}

TEST(FloatCodes, NamesAndBytes) {
  EXPECT_EQ(to_string(Format::mxfp4()), "mxfp4");
  EXPECT_EQ(to_string(Format::nvfp4()), "nvfp4");
  EXPECT_EQ(row_bytes(Format::mxfp8(), 64), 64u);
  EXPECT_EQ(row_bytes(Format::nvfp4(), 64), 32u);
  for (const QuantMode mode : kModes) {
    EXPECT_EQ(spec_of(format_of(QuantSpec::of(mode), DType::bf16)), QuantSpec::of(mode));
    EXPECT_EQ(quant_mode_from_string(to_string(mode)), mode);
    EXPECT_TRUE(known_format(format_of(QuantSpec::of(mode), DType::bf16)));
    EXPECT_FALSE(plain_format(format_of(QuantSpec::of(mode), DType::bf16)));
  }
  EXPECT_FALSE(known_format(Format::floats(Format::Codes::e2m1, 4, 64, DType::f8_e8m0)));
  EXPECT_EQ(quant_mode_from_string("fp4"), std::nullopt);
}

}  // namespace
}  // namespace bumblebee
