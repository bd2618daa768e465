// What goes and what stays, whatever the pieces.
#include "text/strip.h"

#include <gtest/gtest.h>

#include <vector>

namespace bumblebee::txt {
namespace {

constexpr StripOptions kThink = {.think = true}, kTags = {.hashtags = true}, kEmoji = {.emoji = true},
                       kAll = {.think = true, .hashtags = true, .emoji = true};

/// All at once; and the same character by character, which must not differ.
std::string strip(const StripOptions& options, const std::string& text) {
  Stripper whole(options), slow(options);
  std::string out = whole.push(text), piecewise;
  out += whole.flush();
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    while (end < text.size() && (uint8_t(text[end]) & 0xC0) == 0x80) ++end;
    piecewise += slow.push(std::string_view(text).substr(at, end - at));
    at = end;
  }
  piecewise += slow.flush();
  EXPECT_EQ(piecewise, out) << text;
  return out;
}

struct Case {
  const char *text, *want;
};

TEST(Strip, Thoughts) {
  for (const auto& [text, want] :
       std::vector<Case>{{"<think>\nHm, a post.\n</think>\n\nHello there.", "Hello there."},
                         {"<think></think>Hello", "Hello"},
                         {"[THINK]no[/THINK]yes", "yes"},
                         {"<seed:think>no</seed:think>yes", "yes"},
                         {"<|inner_prefix|>no<|inner_suffix|>yes", "yes"},
                         {"<thinking>a</think>b</thinking>c", "bc"},  // any end ends it, as people read it
                         {"Well <think>hm</think> yes.", "Well yes."},
                         {"Begun <think>and never ended", "Begun"},
                         {"a < b, <thin> and <thinker>", "a < b, <thin> and <thinker>"},
                         {"ends with <thi", "ends with <thi"},
                         {"#tag \xF0\x9F\x98\x80", "#tag \xF0\x9F\x98\x80"}}) {
    EXPECT_EQ(strip(kThink, text), want) << text;
  }
  EXPECT_EQ(strip({.think = true, .in_thought = true}, "so be it</think>\n\nYes."), "Yes.") << "opened by the prompt";
  EXPECT_EQ(strip({.think = true, .in_thought = true}, "never ended"), "");
}

TEST(Strip, Hashtags) {
  for (const auto& [text, want] : std::vector<Case>{{"A fine day #sun #day_2", "A fine day"},
                                                    {"#one word", "word"},
                                                    {"in the #middle of it", "in the of it"},
                                                    {"Well #done.", "Well."},
                                                    {"First line #x\nsecond", "First line\nsecond"},
                                                    {"Text.\n\n#a #b", "Text."},
                                                    {"We are #1, in C# and F#sharp", "We are #1, in C# and F#sharp"},
                                                    {"#1st place", "place"},
                                                    {"# Title\n## Sub", "# Title\n## Sub"},
                                                    {"https://x.y/#part &#39; (#in)", "https://x.y/#part &#39; ()"},
                                                    {"Schön #Übermut, ja", "Schön, ja"},
                                                    {"東京 #東京タワー。", "東京 。"},
                                                    {"kept  as   it is ", "kept  as   it is "}}) {
    EXPECT_EQ(strip(kTags, text), want) << text;
  }
}

TEST(Strip, Emoji) {
  for (const auto& [text, want] : std::vector<Case>{{"Hi 👋 there 🌞🌞", "Hi there"},
                                                    {"Family 👨‍👩‍👧‍👦!", "Family!"},
                                                    {"Thumbs 👍🏽 up", "Thumbs up"},
                                                    {"Flag 🇩🇪 and 🏴󠁧󠁢󠁳󠁣󠁴󠁿.", "Flag and."},
                                                    {"Love ❤️ and ❤", "Love and"},
                                                    {"Press 1️⃣ or 2", "Press or 2"},
                                                    {"© 2026 ™ ✓ ★ → 5*3 #4", "© 2026 ™ ✓ ★ → 5*3 #4"},
                                                    {"™️ is a picture", "is a picture"},
                                                    {"day🌞light", "daylight"},
                                                    {"#tag stays", "#tag stays"}}) {
    EXPECT_EQ(strip(kEmoji, text), want) << text;
  }
}

TEST(Strip, TogetherAndNothing) {
  EXPECT_EQ(strip(kAll, "<think>😀 #a</think>Good 😀 #b night #c 🌙"), "Good night");
  EXPECT_EQ(strip({}, "<think>x</think> #a 🌞"), "<think>x</think> #a 🌞");
}

TEST(Strip, OnlyMarksWhereTheyAreCertain) {
  const std::string text = "\xFF<think>\nThe tag </think> closes.\n\xFF</think>\n\nSo <think>: \xFF<|call|>.";
  Stripper whole({.think = true, .certain_marks = true}), bytes({.think = true, .certain_marks = true});
  std::string out;
  for (const char c : text) out += bytes.push({&c, 1});
  out += bytes.flush();
  EXPECT_EQ(out, "So <think>: \xFF<|call|>.");
  const std::string first = whole.push(text);
  EXPECT_EQ(first + whole.flush(), out);
}

}  // namespace
}  // namespace bumblebee::txt
