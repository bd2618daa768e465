// Blanks and letters.
#include "base/ascii.h"

#include <gtest/gtest.h>

namespace bumblebee {
namespace {

TEST(Ascii, Trimmed) {
  EXPECT_EQ(trimmed(" \t\r\n\f\va b \v\f\n\r\t "), "a b");
  EXPECT_EQ(trimmed("a"), "a");
  for (const char* empty : {"", " ", "\t \n"}) EXPECT_EQ(trimmed(empty), "");
  EXPECT_EQ(trimmed("\xC2\xA0"
                    "a"),
            "\xC2\xA0"
            "a")
      << "a blank beyond ASCII is none";
  EXPECT_EQ(trimmed("\fa ", " \t\r\n"), "\fa") << "other blanks, if asked for";
  EXPECT_EQ(trimmed(std::string_view("\0 ", 2)), std::string_view("\0", 1));
}

TEST(Ascii, Lower) {
  EXPECT_EQ(lower("AZaz[@`{09 "), "azaz[@`{09 ");
  EXPECT_EQ(lower("\xC3\x84\x80"), "\xC3\x84\x80") << "nor is a letter";
  EXPECT_EQ(lower(""), "");
}

}  // namespace
}  // namespace bumblebee
