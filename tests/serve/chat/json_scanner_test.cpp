// The scanner of one value against nlohmann's parser.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <random>
#include <string>

#include "serve/chat/json_scanner.h"

namespace bumblebee::serve {
namespace {

using Step = JsonScanner::Step;

/// Bytes of the value that `text` begins with, as the scanner has it; npos: none.
size_t scanned(std::string_view text) {
  JsonScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    const Step step = scanner.push(text[i]);
    if (step == Step::malformed) return std::string_view::npos;
    if (step == Step::ends) return i + 1;
    if (step == Step::has_ended) return i;
  }
  return std::string_view::npos;
}

TEST(JsonScanner, FindsTheEndOfAValue) {
  for (const std::string value : {"{}", "[]", "{\"a\":[1,2,{\"b\":null}]}", "\"a\\\"b\"", "true", "false", "null",
                                  "[ 1 , -0.5e+3 ]", "{\"\\u00e4\" : \"}]\"}", "\"\"", "[[],{},\"\"]"}) {
    EXPECT_EQ(scanned(value), value.size()) << value;
    EXPECT_EQ(scanned(value + "x"), value.size()) << value;
  }
  for (const std::string number : {"0", "-0", "12", "-1.5", "1e5", "1E-5", "0.25e+10"}) {
    for (const char after : {' ', ',', '}', 'x'}) EXPECT_EQ(scanned(number + after), number.size()) << number;
  }
}

TEST(JsonScanner, RefusesWhatIsNone) {
  for (const char* text : {"01",          "-a",
                           "1.x",         "1e",
                           "1ex",         "+1 ",
                           ".5 ",         "nul ",
                           "nil",         "tru}",
                           "{1:2}",       "{\"a\"}",
                           "{\"a\":}",    "{,}",
                           "[,]",         "[1,]",
                           "{\"a\":1,}",  "[1}",
                           "{\"a\":1]",   "\"\\x\"",
                           "\"\\u12g4\"", "\"\n\"",
                           "'a'",         "[1 2]",
                           "{\"a\" 1}",   "[\"a\" \"b\"]",
                           "]",           "}",
                           ",",           "NaN",
                           "[NaN]",       "[Infinity]",
                           "/**/1",       "\xEF\xBB\xBF{}"}) {
    EXPECT_EQ(scanned(text), std::string_view::npos) << text;
  }
}

TEST(JsonScanner, HasALimitOfDepth) {
  const auto nested = [](int depth) { return std::string(size_t(depth), '[') + std::string(size_t(depth), ']'); };
  EXPECT_EQ(scanned(nested(kCallDepth)), size_t(2 * kCallDepth));
  EXPECT_EQ(scanned(nested(kCallDepth + 1)), std::string_view::npos);
}

// Objects with a few bytes changed: both say the same of each. The mutations stay within ASCII, because nlohmann checks
// UTF-8 too.
TEST(JsonScanner, AgreesWithAParser) {
  const std::string base = R"({"a":[1,-2.5e+3,true,false,null],"b\u00e4\n":{"c":"x\"y","d":[{},[]," "]},"e":0})";
  const std::string bytes = "{}[]:,\"\\ \nu0129.eE+-truefalsn\tx";
  std::mt19937 random(3);
  int good = 0;
  for (int round = 0; round < 40'000; ++round) {
    std::string text = base;
    for (int change = 1 + int(random() % 3); change > 0; --change) {
      const size_t at = 1 + random() % (text.size() - 1);
      switch (random() % 3) {
        case 0: text[at] = bytes[random() % bytes.size()]; break;
        case 1: text.insert(at, 1, bytes[random() % bytes.size()]); break;
        default: text.erase(at, 1); break;
      }
    }
    while (!text.empty() && is_json_blank(text.back())) text.pop_back();
    const bool accepted = nlohmann::json::accept(text);
    EXPECT_EQ(scanned(text) == text.size(), accepted) << text;
    good += accepted;
  }
  EXPECT_GT(good, 2'000);
}

}  // namespace
}  // namespace bumblebee::serve
