// Sums and products around 2^64.
#include "base/checked.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

TEST(CheckedMul, GivesTheProductThatFits) {
  EXPECT_EQ(checked_mul(6, 7), 42u);
  EXPECT_EQ(checked_mul(0, UINT64_MAX), 0u);
  EXPECT_EQ(checked_mul(UINT64_MAX, 1), UINT64_MAX);
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1), 0xffffffff00000000u);
  EXPECT_EQ(checked_mul(5, 3689348814741910323u), UINT64_MAX);  // 2^64 - 1 = 5 · 3689348814741910323
}

TEST(CheckedMul, IsEmptyWhenItWouldWrap) {
  EXPECT_FALSE(checked_mul(uint64_t{1} << 32, uint64_t{1} << 32));
  EXPECT_FALSE(checked_mul(UINT64_MAX, 2));
  EXPECT_FALSE(checked_mul(UINT64_MAX, UINT64_MAX));
  EXPECT_FALSE(checked_mul(5, 3689348814741910324u));
}

TEST(CheckedAdd, GivesTheSumThatFits) {
  EXPECT_EQ(checked_add(40, 2), 42u);
  EXPECT_EQ(checked_add(UINT64_MAX, 0), UINT64_MAX);
  EXPECT_EQ(checked_add(UINT64_MAX - 1, 1), UINT64_MAX);
}

TEST(CheckedAdd, IsEmptyWhenItWouldWrap) {
  EXPECT_FALSE(checked_add(UINT64_MAX, 1));
  EXPECT_FALSE(checked_add(uint64_t{1} << 63, uint64_t{1} << 63));
}

}  // namespace
}  // namespace bumblebee
