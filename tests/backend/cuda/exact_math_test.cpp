// The exponential and the logarithm that cards choose tokens with, against this machine's library.
#include "backend/cuda/kernels/exact_math.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/random.h"

namespace bumblebee::cuda {
namespace {

using testing_support::Random;

/// Units in the last place between them.
double units(double got, double want) {
  const double unit = std::nextafter(std::abs(want), std::numeric_limits<double>::infinity()) - std::abs(want);
  return std::abs(got - want) / unit;
}

TEST(ExactMath, ExponentialsAreTheLibrarysButForAFew) {
  ExpTable table;
  fill(table);
  Random random(1);
  int other = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    const double x = -std::abs(random.normal(i % 2 == 0 ? 5 : 100));
    const double got = exact_exp(x, table), want = std::exp(x);
    ASSERT_TRUE(x < -700 || units(got, want) <= 1) << x;
    other += got == want ? 0 : 1;
  }
  EXPECT_LT(other, kCount / 100);
  EXPECT_EQ(exact_exp(0, table), 1);
  EXPECT_EQ(exact_exp(-1e5, table), 0);
}

TEST(ExactMath, LogarithmsAreTheLibrarysButForAFew) {
  Random random(2);
  int other = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    const double x = i % 2 == 0 ? 1 + std::abs(random.normal(0.5)) : std::exp(random.uniform(0, 20));
    const double got = exact_log(x), want = std::log(x);
    ASSERT_LE(units(got, want), 1) << x;
    other += got == want ? 0 : 1;
  }
  EXPECT_LT(other, kCount / 100);
  EXPECT_EQ(exact_log(1), 0);
}

}  // namespace
}  // namespace bumblebee::cuda
