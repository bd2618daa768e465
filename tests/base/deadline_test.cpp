// However long a caller would wait, the moment lies ahead.
#include "base/deadline.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

using std::chrono::milliseconds;

TEST(Deadline, LiesAheadWhateverTimeIsNamed) {
  const auto now = std::chrono::steady_clock::now();
  const auto soon = from_now(milliseconds(5));
  EXPECT_GE(soon, now + milliseconds(5));
  EXPECT_LE(soon, std::chrono::steady_clock::now() + milliseconds(5));
  EXPECT_GE(from_now(milliseconds::max()), now + kLongestWait);
  EXPECT_GE(from_now(milliseconds::min()), now);
}

}  // namespace
}  // namespace bumblebee
