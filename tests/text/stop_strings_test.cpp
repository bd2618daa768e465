// The automaton against a plain search, over every way of cutting the text.
#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"

namespace bumblebee::txt {
namespace {

struct Outcome {
  std::string text;
  bool matched = false;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// By definition: the first byte at which any stop string ends; the longest that ends there.
Outcome search(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const auto& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

Outcome in_pieces(const std::string& text, const std::vector<std::string>& stops, const std::vector<size_t>& cuts) {
  StopStrings matcher(stops);
  std::string out;
  size_t from = 0;
  for (size_t cut : cuts) {
    out += matcher.push(text.substr(from, cut - from));
    from = cut;
  }
  out += matcher.push(text.substr(from));
  const bool matched = matcher.matched();
  out += matcher.flush();
  return {out, matched};
}

TEST(StopStrings, FindsTheFirstAcrossBorders) {
  const std::vector<std::string> stops = {"\n\nUser:", "END", "aab"};
  for (const std::string text : {"Hello\n\nUser: x", "an ENd, an END", "aaab", "aaaaaa", "\n\n\nUser:", "EN", ""}) {
    for (size_t cut = 0; cut <= text.size(); ++cut)
      EXPECT_EQ(in_pieces(text, stops, {cut}), search(text, stops)) << text << " cut " << cut;
  }
}

TEST(StopStrings, WhatIsNotShownIsFoundAndNeverGivenOut) {
  const auto run = [](const std::vector<std::string>& stops,
                      const std::vector<std::pair<std::string, bool>>& pieces) -> Outcome {
    StopStrings matcher(stops);
    std::string out;
    for (const auto& [text, shown] : pieces)
      out += matcher.push(text, shown ? StopStrings::Of::text : StopStrings::Of::control);
    const bool matched = matcher.matched();
    return {out + matcher.flush(), matched};
  };
  EXPECT_EQ(run({"<|end|>"}, {{"Bye", true}, {"<|end|>", false}, {"x", true}}), (Outcome{"Bye", true}));
  EXPECT_EQ(run({"\n<|end|>user"}, {{"Bye\n", true}, {"<|end|>", false}, {"user", true}}), (Outcome{"Bye", true}));
  EXPECT_EQ(run({"\n<|end|>user"}, {{"Bye\n", true}, {"<|end|>", false}, {"us", true}}), (Outcome{"Bye\nus", false}));
  EXPECT_EQ(run({"<|end|>x"}, {{"a", true}, {"<|end|>", false}, {"b", true}}), (Outcome{"ab", false}));
  EXPECT_EQ(run({"<|end|>"}, {{"a <|end|>", true}}), (Outcome{"a ", true})) << "spelled in words";
  EXPECT_EQ(run({}, {{"a", true}, {"<|end|>", false}}), (Outcome{"a", false}));
}

TEST(StopStrings, AgreesWithAPlainSearchOnRandomText) {
  std::mt19937 random(5);
  int matches = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](size_t length) {
      std::string s;
      for (size_t i = 0; i < length; ++i) s += char('a' + random() % 2);
      return s;
    };
    std::vector<std::string> stops;
    for (size_t i = 0, n = 1 + random() % 4; i < n; ++i) stops.push_back(word(1 + random() % 6));
    const std::string text = word(random() % 20);
    std::vector<size_t> cuts;
    for (size_t i = 0; i < text.size(); ++i) {
      if (random() % 3 == 0) cuts.push_back(i);
    }
    const Outcome want = search(text, stops);
    EXPECT_EQ(in_pieces(text, stops, cuts), want) << text;
    matches += want.matched;
  }
  EXPECT_GT(matches, 500);
}

TEST(StopStrings, HoldsBackOnlyWhatMayBeginOne) {
  StopStrings matcher({"STOP"});
  EXPECT_EQ(matcher.push("say S"), "say ");
  EXPECT_EQ(matcher.push("T"), "");
  EXPECT_EQ(matcher.push("AB"), "STAB");
  EXPECT_EQ(matcher.push(" ST"), " ");
  EXPECT_EQ(matcher.push("OP and more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopStrings, NeverCutsACharacter) {
  // "é" and "è" share their first byte: holding back must take whole characters.
  StopStrings matcher({"éa", "日本"});
  for (const char* piece : {"x", "é", "è", "日", "月", "ébc", "日"})
    EXPECT_TRUE(valid_utf8(matcher.push(piece))) << piece;
  EXPECT_EQ(matcher.push("本!"), "");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopStrings, WithoutAnyEverythingPasses) {
  StopStrings matcher({});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopStrings, LinearInHostileText) {
  const std::string stop = std::string(1023, 'a') + "b";
  StopStrings matcher({stop});
  size_t out = 0;
  for (int i = 0; i < 1000; ++i) out += matcher.push(std::string(1000, 'a')).size();  // quadratic would be 10^9 steps
  EXPECT_EQ(out, 1000000u - 1023u);
}

TEST(StopStrings, SaysWhichWasFound) {
  StopStrings stops({"zz", "fg", "efg"});
  EXPECT_EQ(stops.push("abcde"), "abcd");
  EXPECT_TRUE(stops.found().empty());
  stops.push("fgh");
  EXPECT_EQ(stops.found(), "efg");
  StopStrings none({});
  none.push("x");
  EXPECT_TRUE(none.found().empty());
}

/// What is passed keeps its place among what is looked at, and ends no stop string.
TEST(StopStrings, WhatIsPassed) {
  StopStrings matcher({"\n\n", "abc"});
  EXPECT_EQ(matcher.push("xa"), "x");
  EXPECT_EQ(matcher.pass("\n\n"), "");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_EQ(matcher.pass("!"), "");
  EXPECT_EQ(matcher.push("x"), "a\n\nb!x");
  EXPECT_EQ(matcher.pass("\n\n"), "\n\n");
  EXPECT_EQ(matcher.push("a"), "");
  EXPECT_EQ(matcher.flush(), "a") << "parted from what follows";
  EXPECT_EQ(matcher.push("bc"), "bc");
  EXPECT_EQ(matcher.push("ya"), "y");
  EXPECT_EQ(matcher.pass("!"), "");
  EXPECT_EQ(matcher.push("bc"), "");
  EXPECT_EQ(matcher.pass("?"), "");
  EXPECT_EQ(matcher.flush(), "");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopStrings, HeadersAloneAreNone) {
  using Of = StopStrings::Of;
  StopStrings matcher({"final", "<|channel|>final"});
  EXPECT_EQ(matcher.push("final", Of::header), "");
  EXPECT_FALSE(matcher.matched());
  EXPECT_EQ(matcher.push("a"), "a");
  EXPECT_EQ(matcher.push("<|channel|>", Of::control), "");
  EXPECT_EQ(matcher.push("final", Of::header), "");
  EXPECT_EQ(matcher.found(), "<|channel|>final");
}

}  // namespace
}  // namespace bumblebee::txt
