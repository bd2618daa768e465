// The text of errors and the names of codes: programs and people match on them. Failed checks must abort with the
// values.
#include "base/error.h"

#include <gtest/gtest.h>

#include <set>

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
