// Philox against the known answers that its authors publish with Random123 (kat_vectors, philox4x32 with 10 rounds).
#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace bumblebee {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(UINT64_MAX, UINT64_MAX, UINT64_MAX), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // The digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0, low words first.
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryWordOfKeyAndCounterMatters) {
  std::set<Words> seen = {philox(0, 0, 0)};
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t one = uint64_t{1} << bit;
    seen.insert(philox(one, 0, 0));
    seen.insert(philox(0, one, 0));
    seen.insert(philox(0, 0, one));
  }
  EXPECT_EQ(seen.size(), 1u + 3u * 64u);
}

TEST(Uniform01, UsesTheFirst53BitsAndStaysBelowOne) {
  const Words w = philox(0, 0, 0);
  const uint64_t bits = (uint64_t{w[0]} << 32 | w[1]) >> 11;
  EXPECT_EQ(uniform01(0, 0), std::ldexp(double(bits), -53));
  double sum = 0, squares = 0;
  constexpr int kCount = 20000;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = uniform01(42, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  // Six standard deviations of the two means: sqrt(1/12/n) and sqrt(4/45/n).
  EXPECT_NEAR(sum / kCount, 0.5, 6 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 6 * std::sqrt(4.0 / 45 / kCount));
}

}  // namespace
}  // namespace bumblebee
