// RFC 4180, and what is refused with its line.
#include "dataset/csv.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace bumblebee::dataset {
namespace {

using Fields = std::vector<std::vector<std::string>>;

Fields fields(std::string_view text) {
  Fields out;
  for (const CsvRecord& record : parse_csv(text, "posts.csv")) out.push_back(record.fields);
  return out;
}

void expect_error(std::string_view text, const std::string& where, const std::string& part) {
  try {
    parse_csv(text, "posts.csv");
    ADD_FAILURE() << "accepted: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_file);
    EXPECT_NE(std::string(error.what()).find("[" + where + "]"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Csv, PlainAndQuotedFields) {
  EXPECT_EQ(fields("a,b\n1,2\n"), (Fields{{"a", "b"}, {"1", "2"}}));
  EXPECT_EQ(fields("a,b\r\n1,2"), (Fields{{"a", "b"}, {"1", "2"}})) << "CRLF, and no end of line at the end";
  EXPECT_EQ(fields("a\n\"x,\"\"y\"\"\nz\"\n"), (Fields{{"a"}, {"x,\"y\"\nz"}}));
  EXPECT_EQ(fields("a,b\n,\n\"\",\"\"\n"), (Fields{{"a", "b"}, {"", ""}, {"", ""}}));
  EXPECT_EQ(fields("a\n\"\"\nb\n"), (Fields{{"a"}, {""}, {"b"}})) << "an empty field in quotes is a record";
  EXPECT_EQ(fields("a\n\n\nb\n"), (Fields{{"a"}, {"b"}})) << "an empty line is none";
  EXPECT_EQ(fields(" a , b \n"), (Fields{{" a ", " b "}})) << "spaces belong to the field";
  EXPECT_EQ(fields("a\rb\n"), (Fields{{"a\rb"}})) << "a lone CR is a character";
  EXPECT_TRUE(fields("").empty());
  EXPECT_EQ(fields("a,b\n1,"), (Fields{{"a", "b"}, {"1", ""}})) << "the last field may be empty";
}

TEST(Csv, LinesAreCountedThroughQuotes) {
  const auto records = parse_csv("a\n\"x\ny\"\nz\n", "posts.csv");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].line, 2);
  EXPECT_EQ(records[2].line, 4);
}

TEST(Csv, BrokenFilesNameTheLine) {
  expect_error("a,b\n1,2,3\n", "posts.csv:2", "expected 2 fields");
  expect_error("a\nx\"y\n", "posts.csv:2", "a quote inside a field");
  expect_error("a\n\"x\"y\n", "posts.csv:2", "after the closing quote");
  expect_error("a\n\n\"x\ny", "posts.csv:3", "never closed");
}

}  // namespace
}  // namespace bumblebee::dataset
