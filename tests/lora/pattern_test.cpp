// The matcher against Python's re.fullmatch: what it says of each pair was checked with CPython 3.11.
#include "lora/pattern.h"

#include <gtest/gtest.h>

#include "tests/io/files.h"

namespace bumblebee::lora {
namespace {

bool matches(const std::string& pattern, const std::string& text) { return Pattern(pattern, "c").matches(text); }

TEST(Pattern, MatchesAsPythonDoes) {
  const std::string q = "model.layers.11.self_attn.q_proj";
  struct Case {
    const char* pattern;
    std::string text;
    bool want;
  };
  const Case cases[] = {
      {"", "", true},
      {"", "a", false},
      {"a|b", "b", true},
      {"a|", "", true},
      {"ab*", "abbb", true},
      {"(ab)*", "ababa", false},
      {"(?:ab)+?", "abab", true},
      {"a?b", "b", true},
      {"a{2}", "aa", true},
      {"a{2}", "aaa", false},
      {"a{2,}", "aaaa", true},
      {"a{,2}", "", true},
      {"a{1,2}", "aaa", false},
      {"a{x}", "a{x}", true},
      {"a.c", "abc", true},
      {"a.c", "a\nc", false},
      {"a\\.c", "abc", false},
      {"[a-c]+", "abcabc", true},
      {"[^a-c]+", "xyz", true},
      {"[^a-c]+", "xbz", false},
      {"[]a]+", "]a", true},
      {"[a-]+", "a-a", true},
      {"[\\d_]+", "1_2", true},
      {"\\d\\D\\w\\W\\s\\S", "1ab- x", true},
      {"^a$", "a", true},
      {"a^b", "ab", false},
      {"a\\b\\.b", "a.b", true},
      {"a\\bb", "ab", false},
      {"a\\Bb", "ab", true},
      {".*q_proj", q, true},
      {".*\\.layers\\.(1|11)\\..*\\.(q|v)_proj$", q, true},
      {"model\\.layers\\.\\d\\..*", q, false},
      {R"((?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention)\.(?:(?:q_proj|k_proj))))",
       q, true},
      {R"((?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention)\.(?:(?:q_proj|k_proj))))",
       "model.layers.11.mlp.q_proj", false},
      {"(a*)*b", std::string(40, 'a'), false},  // exponential in a matcher that backtracks
      {"(a|a)*c", std::string(40, 'a'), false},
      {"(?:(?:){10}){1000}a", "a", true},
  };
  for (const Case& c : cases) EXPECT_EQ(matches(c.pattern, c.text), c.want) << c.pattern << " on " << c.text;
}

TEST(Pattern, RefusesWhatItDoesNotUnderstand) {
  const std::pair<const char*, const char*> cases[] = {
      {"(?!vision).*", "'(?!'"}, {"(?=a)", "'(?='"},       {"(?<=a)b", "'(?<'"},
      {"(?P<n>a)", "'(?P'"},     {"(?i)a", "'(?i'"},       {"(a)\\1", "escape"},
      {"\\Za", "escape"},        {"[[:alpha:]]", "[: :]"}, {"a**", "repetition of a repetition"},
  };
  for (const auto& [pattern, part] : cases) {
    test::expect_error([&] { Pattern(pattern, "c"); }, part, pattern);
    test::expect_error([&] { Pattern(pattern, "c"); }, "not supported", pattern);
  }
}

TEST(Pattern, RefusesBrokenAndHugeOnes) {
  const std::string deep(100, '(');
  for (const std::string& pattern :
       {std::string("(a"), std::string("a)"), std::string("[a"), std::string("*a"), std::string("a\\"),
        std::string("[b-a]"), std::string("a{3,2}"), std::string("a{2000}"), std::string("((a{1000}){1000}){1000}"),
        std::string("(((((((){1000}){1000}){1000}){1000}){1000}){1000})"), deep, std::string(10000, 'a')}) {
    test::expect_error([&] { Pattern(pattern, "file"); }, "[file]", pattern.substr(0, 30));
  }
}

}  // namespace
}  // namespace bumblebee::lora
