// Patterns against Python's own re (tools/goldens/patterns.py), and their limits.
#include "lora/pattern.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <optional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "tests/io/files.h"

namespace bumblebee::lora {
namespace {

const Json& golden_patterns() {
  static const Json all =
      parse_json(read_text_file(std::string(BB_TEST_DATA) + "/goldens/patterns.json", 1 << 20), "goldens");
  return all;
}

/// The code with which a pattern is refused, none where it is taken.
std::optional<ErrorCode> refusal(const std::string& pattern) {
  try {
    Pattern(pattern, "c");
    return std::nullopt;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[c, pattern '"), std::string::npos) << error.what();
    return error.code();
  }
}

TEST(Pattern, MatchesAsPythonDoes) {
  size_t answers = 0;
  for (const Json& matter : golden_patterns()["matters"]) {
    for (const Json& asked : matter["patterns"]) {
      const std::string text = asked[0], wanted = asked[1];
      try {
        const Pattern pattern(text, "c");
        for (size_t i = 0; i < wanted.size(); ++i, ++answers) {
          const std::string name = matter["names"][i];
          EXPECT_EQ(pattern.matches(name), wanted[i] == '1') << text << " on '" << name << "'";
        }
      } catch (const Error& error) {
        ADD_FAILURE() << text << ": " << error.what();
      }
    }
  }
  EXPECT_GE(answers, 8000u);
}

TEST(Pattern, RefusesWhatPythonRefuses) {
  for (const std::string pattern : golden_patterns()["malformed"])
    EXPECT_EQ(refusal(pattern), ErrorCode::bad_config) << pattern;
}

TEST(Pattern, RefusesByNameWhatItDoesNotUnderstand) {
  for (const std::string pattern : golden_patterns()["refused"]) EXPECT_NE(refusal(pattern), std::nullopt) << pattern;
  for (const char* pattern :
       {"(a)?(?(1)b)", "a{1,2}+", "(?m)a", "(?x)a", "(?a)a", "\\N{DIGIT ONE}", "(?=a)*", "(?:)?"}) {
    EXPECT_EQ(refusal(pattern), ErrorCode::unsupported) << pattern;
    test::expect_error([&] { Pattern(pattern, "c"); }, "not supported: name the modules in a list", pattern);
  }
}

TEST(Pattern, TakesSomeThatPythonRefuses) {
  for (const std::string pattern : golden_patterns()["taken"]) EXPECT_EQ(refusal(pattern), std::nullopt) << pattern;
}

TEST(Pattern, RefusesHugeOnes) {
  for (const std::string& pattern :
       {std::string("((a{1000}){1000}){1000}"), std::string("(((((((){1000}){1000}){1000}){1000}){1000}){1000})"),
        std::string("a{99999999999999999999}"), std::string(5000, '('), std::string(10000, 'a'),
        std::string("\\w{1000}"), std::string("(?=((\\w{100}){100}))a"), std::string("\xff")}) {
    EXPECT_EQ(refusal(pattern), ErrorCode::bad_config) << pattern.substr(0, 30);
  }
}

TEST(Pattern, StepsBackAreLimited) {
  EXPECT_FALSE(Pattern("(a*)*b", "c").matches(std::string(256, 'a'))) << "linear";
  const std::string name(256, 'a');
  for (const char* pattern : {"(?=a)(a|a)*(?!c)b", "(a*)*\\1b"}) {
    test::expect_error([&] { (void)Pattern(pattern, "c").matches(name); }, "goes back more than", pattern);
  }
}

TEST(Pattern, NamesAreLinesOfText) {
  const Pattern all(".*", "c");
  test::expect_error([&] { (void)all.matches("a\n"); }, "line breaks", "line break");
  test::expect_error([&] { (void)all.matches("a\xff"); }, "UTF-8", "no UTF-8");
}

}  // namespace
}  // namespace bumblebee::lora
