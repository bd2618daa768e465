// The text of errors and the names of codes: programs and people match on them. Failed checks must abort with the
// values.
#include "base/error.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <set>
#include <sstream>
#include <string>

#include "base/format.h"

namespace bumblebee {
namespace {

TEST(Error, ReadsWhereAndWhat) {
  const Error error(ErrorCode::bad_file, "model.safetensors", "tensor 'x': expected 4 bytes, got 3");
  EXPECT_STREQ(error.what(), "[model.safetensors] tensor 'x': expected 4 bytes, got 3");
  EXPECT_EQ(error.code(), ErrorCode::bad_file);
}

TEST(Error, IsARuntimeError) { EXPECT_THROW(throw Error(ErrorCode::device, "cuda", "absent"), std::runtime_error); }

TEST(Error, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (ErrorCode code : {ErrorCode::bad_file, ErrorCode::bad_config, ErrorCode::unsupported, ErrorCode::out_of_memory,
                         ErrorCode::device, ErrorCode::bad_request, ErrorCode::cancelled}) {
    EXPECT_NE(to_string(code), "unknown");
    names.insert(to_string(code));
  }
  EXPECT_EQ(names.size(), 7u);
  EXPECT_EQ(to_string(ErrorCode::bad_config), "bad_config");
}

TEST(Cat, JoinsValuesOfAnyType) {
  EXPECT_EQ(cat("expected ", 3, ", got ", 2.5, ' ', std::string("x")), "expected 3, got 2.5 x");
}

template <class... Args>
std::string streamed(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// The definition: what a stream prints, for every type that messages use.
TEST(Cat, WritesWhatAStreamWrites) {
  enum Plain { first, second = 7 };
  const int here = 0;
  EXPECT_EQ(cat(), "");
  EXPECT_EQ(cat(true, false), streamed(true, false));
  EXPECT_EQ(cat('a', static_cast<signed char>('b'), static_cast<unsigned char>('c'), uint8_t(65), int8_t(66)),
            streamed('a', static_cast<signed char>('b'), static_cast<unsigned char>('c'), uint8_t(65), int8_t(66)));
  EXPECT_EQ(cat(short(-3), ' ', 4u, ' ', -5L, ' ', 6ULL), streamed(short(-3), ' ', 4u, ' ', -5L, ' ', 6ULL));
  EXPECT_EQ(cat(INT64_MIN, ' ', INT64_MAX, ' ', UINT64_MAX), streamed(INT64_MIN, ' ', INT64_MAX, ' ', UINT64_MAX));
  EXPECT_EQ(cat(std::string("s"), std::string_view("v"), "l"), streamed(std::string("s"), std::string_view("v"), "l"));
  EXPECT_EQ(cat(std::string("a\0b", 3)), streamed(std::string("a\0b", 3)));
  EXPECT_EQ(cat(first, ' ', second), streamed(first, ' ', second));
  EXPECT_EQ(cat(static_cast<const void*>(&here)), streamed(static_cast<const void*>(&here)));
  char buffer[8] = "buf";
  EXPECT_EQ(cat(buffer), "buf");
}

TEST(Cat, WritesNumbersWithSixDigitsAsAStream) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const double base : {0.0,
                            1.0,
                            0.1,
                            1.0 / 3,
                            2.5,
                            123456.0,
                            1234567.0,
                            999999.5,
                            9999995.0,
                            1e-4,
                            9.99999e-5,
                            1e-5,
                            1e15,
                            1e100,
                            5e-324,
                            1.7976931348623157e308,
                            0.30000000000000004,
                            100000.0,
                            1e6,
                            inf}) {
    for (const double value : {base, -base}) {
      EXPECT_EQ(cat(value), streamed(value));
      EXPECT_EQ(cat(float(value)), streamed(float(value)));
    }
  }
  EXPECT_EQ(cat(std::numeric_limits<double>::quiet_NaN()), streamed(std::numeric_limits<double>::quiet_NaN()));
}

TEST(Format, TakesPatternsOfFmt) {
  EXPECT_EQ(format("{:05}-of-{:05}", size_t{3}, 12), "00003-of-00012");
  EXPECT_EQ(format("{:08x} {:.2f} {:.4g} {}{}", 0xabcu, 2.0, 1e-5f, std::string("x"), 'y'), "00000abc 2.00 1e-05 xy");
  EXPECT_EQ(format("{{}}"), "{}");
}

TEST(CheckDeathTest, AbortsWithExpressionValuesAndPlace) {
  const int rows = 3;
  EXPECT_DEATH(BB_CHECK(rows == 4, "rows ", rows), "error_test.cpp:[0-9]+: check failed: rows == 4 rows 3");
  EXPECT_DEATH(BB_CHECK(rows == 4), "check failed: rows == 4");
}

TEST(Check, EvaluatesItsConditionOnce) {
  int calls = 0;
  BB_CHECK(++calls == 1, "calls ", calls);
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace bumblebee
