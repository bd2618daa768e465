// Both 16-bit floats against an independent description: every value decodes to sign·mantissa·2^exponent, and rounding
// picks the nearer neighbour, or the one with an even last bit, judged in double where all differences are exact.
#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace bumblebee {
namespace {

/// A 16-bit float type as numbers.
struct Kind {
  const char* name;
  int mantissa_bits;
  int exponent_bits;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint16_t infinity() const { return uint16_t(((1 << exponent_bits) - 1) << mantissa_bits); }
  bool is_nan(uint16_t bits) const { return (bits & 0x7fff) > infinity(); }

  /// The value of finite bits, from the definition.
  double value(uint16_t bits) const {
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double magnitude = exponent == 0
                                 ? std::ldexp(mantissa, 1 - bias() - mantissa_bits)
                                 : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
  }

  /// Nearest even by search over the ordered magnitudes; one step past the largest finite value stands for overflow.
  uint16_t nearest(float x) const {
    const double magnitude = std::abs(double(x));
    const auto at = [this](int bits) {
      return bits == infinity() ? std::ldexp(1.0, (1 << exponent_bits) - 1 - bias()) : value(uint16_t(bits));
    };
    int low = 0, high = infinity();
    if (magnitude >= at(high)) {
      low = high;
    } else {
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (at(middle) <= magnitude ? low : high) = middle;
      }
      const double below = magnitude - at(low), above = at(high) - magnitude;
      if (above < below || (above == below && low % 2 != 0)) low = high;
    }
    return uint16_t(low | (std::signbit(x) ? 0x8000 : 0));
  }
};

const Kind kF16 = {"f16", 10, 5, f16_to_f32, f32_to_f16};
const Kind kBf16 = {"bf16", 7, 8, bf16_to_f32, f32_to_bf16};

class Float16 : public testing::TestWithParam<const Kind*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Float16, testing::Values(&kF16, &kBf16),
                         [](const auto& kind) { return kind.param->name; });

TEST_P(Float16, EveryValueDecodesByDefinitionAndRoundTrips) {
  const Kind& kind = *GetParam();
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = uint16_t(i);
    const float wide = kind.widen(bits);
    if (kind.is_nan(bits)) {
      ASSERT_TRUE(std::isnan(wide)) << i;
      ASSERT_TRUE(kind.is_nan(kind.narrow(wide))) << i;
      continue;
    }
    if ((bits & 0x7fff) == kind.infinity()) {
      ASSERT_TRUE(std::isinf(wide)) << i;
    } else {
      ASSERT_EQ(double(wide), kind.value(bits)) << i;
    }
    ASSERT_EQ(std::signbit(wide), (bits & 0x8000) != 0) << i;
    ASSERT_EQ(kind.narrow(wide), bits) << i;
  }
}

TEST_P(Float16, RoundsEveryMidpointAndItsNeighboursToNearestEven) {
  const Kind& kind = *GetParam();
  for (int i = 0; i < kind.infinity(); ++i) {
    const double next = i + 1 == kind.infinity() ? std::ldexp(1.0, (1 << kind.exponent_bits) - 1 - kind.bias())
                                                 : kind.value(uint16_t(i + 1));
    const float middle = float((kind.value(uint16_t(i)) + next) / 2);  // exact: f32 has more bits than either type
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, INFINITY), -middle}) {
      ASSERT_EQ(kind.narrow(x), kind.nearest(x)) << std::hexfloat << x;
    }
  }
}

TEST_P(Float16, RoundsRandomBitPatternsToNearestEven) {
  const Kind& kind = *GetParam();
  for (uint64_t i = 0; i < 100000; ++i) {
    for (const uint32_t word : philox(1, i)) {
      const float x = std::bit_cast<float>(word);
      if (std::isnan(x)) {
        ASSERT_TRUE(kind.is_nan(kind.narrow(x))) << std::hex << word;
      } else {
        ASSERT_EQ(kind.narrow(x), kind.nearest(x)) << std::hexfloat << x;
      }
    }
  }
}

TEST_P(Float16, KeepsNanQuietAndItsSign) {
  const Kind& kind = *GetParam();
  for (const uint32_t word : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffc00000u, 0x7f80ffffu}) {
    const uint16_t bits = kind.narrow(std::bit_cast<float>(word));
    EXPECT_TRUE(kind.is_nan(bits)) << std::hex << word;
    EXPECT_NE(bits & (1 << (kind.mantissa_bits - 1)), 0) << std::hex << word;
    EXPECT_EQ(bits >> 15, word >> 31) << std::hex << word;
  }
}

TEST(Float16Edges, OverflowBeginsHalfAStepPastTheLargest) {
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);  // tie between zero and the smallest subnormal
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
}

}  // namespace
}  // namespace bumblebee
