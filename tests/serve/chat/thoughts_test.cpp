// The thought that an answer may begin with.
#include <gtest/gtest.h>

#include "serve/chat/thoughts.h"
#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string split(std::string_view text, bool in_thought = false) {
  return line({.reasoning = true, .in_thought = in_thought}, text);
}

TEST(Thoughts, AreSplitOffWithoutBlanksAround) {
  EXPECT_EQ(split("<think>\nLet me see.\n\nWell.\n</think>\n\nHello \n"), "{Let me see.\n\nWell.}[Hello \n]");
  EXPECT_EQ(split("<thinking>a</thinking>b"), "{a}[b]");
  EXPECT_EQ(split("[THINK]a[/THINK]b"), "{a}[b]");
  EXPECT_EQ(split("<seed:think>a</seed:think>b"), "{a}[b]");
  EXPECT_EQ(split("<|inner_prefix|>a<|inner_suffix|>b"), "{a}[b]");
  EXPECT_EQ(split("\n <think>a</think>"), "{a}");
}

TEST(Thoughts, MayBeginInThePrompt) {
  EXPECT_EQ(split("a\n</think>\n\nb", true), "{a}[b]");
  EXPECT_EQ(split("\n\n</think>b", true), "[b]");
  EXPECT_EQ(split("<think>a</think>b", true), "{<think>a}[b]");
}

TEST(Thoughts, EmptyOnesAreNone) {
  EXPECT_EQ(split("<think>\n\n</think>\n\nb"), "[b]");
  EXPECT_EQ(split("<think></think>"), "");
}

TEST(Thoughts, MayNotEnd) {
  EXPECT_EQ(split("<think>a b \n"), "{a b}");
  EXPECT_EQ(split("<think>a </thin"), "{a </thin}");
  EXPECT_EQ(split("<think> "), "");
}

TEST(Thoughts, OnlyTheFirstCounts) {
  EXPECT_EQ(split("<think>a</think>b <think>c</think>"), "{a}[b <think>c</think>]");
  EXPECT_EQ(split("The tag <think> opens </think>."), "[The tag <think> opens </think>.]");
  EXPECT_EQ(split("a</think>b"), "[a</think>b]");
}

TEST(Thoughts, WhatIsNoTagStaysAsItIs) {
  for (const char* text : {" \n a", "<thin", "<thinker>", " <", "[THINK", "<think", "<<think>"}) {
    EXPECT_EQ(split(text), std::string("[") + text + "]");
  }
  EXPECT_EQ(split("<think>a < b </ thinks> </thi</think>c"), "{a < b </ thinks> </thi}[c]");
}

TEST(Thoughts, AreLeftInWhereNobodyAsked) {
  EXPECT_EQ(line(AnswerFormat{}, " <think>\na</think> b "), "[ <think>\na</think> b ]");
  EXPECT_EQ(line(AnswerFormat{.in_thought = true}, "a</think> b"), "[a</think> b]");
}

TEST(Thoughts, CallsWithinAreNone) {
  const AnswerFormat format = format_of(ToolFormat::hermes, true);
  EXPECT_EQ(
      line(format,
           "<think><tool_call>{\"name\":\"f\"}</tool_call></think>\n\nI ask.\n<tool_call>{\"name\":\"f\"}</tool_call>"),
      "{<tool_call>{\"name\":\"f\"}</tool_call>}[I ask.]<0 f: {}>");
}

TEST(Thoughts, CallsWithinSeedOssTagsAreNone) {
  const std::string call =
      "<seed:tool_call><function=get_weather><parameter=city>Paris</parameter></function></seed:tool_call>";
  EXPECT_EQ(line(format_of(ToolFormat::seed_oss, true), "<seed:think>I could " + call + " no.</seed:think>No."),
            "{I could " + call + " no.}[No.]");
}

TEST(Thoughts, TheParserSaysWhetherItIsInOne) {
  const auto parser = make_answer_parser({.reasoning = true});
  std::vector<AnswerEvent> events;
  EXPECT_FALSE(parser->in_thought());
  parser->push("<think>a", events);
  EXPECT_TRUE(parser->in_thought());
  parser->push("</think>", events);
  EXPECT_FALSE(parser->in_thought());
  EXPECT_TRUE(make_answer_parser({.reasoning = true, .in_thought = true})->in_thought());
}

TEST(Thoughts, StreamAsTheyCome) {
  const auto parser = make_answer_parser({.reasoning = true});
  std::vector<AnswerEvent> events;
  parser->push("<think>\nFirst ", events);
  EXPECT_EQ(line(events), "{First}");
  events.clear();
  parser->push("then <", events);
  EXPECT_EQ(line(events), "{ then}");
}

TEST(Thoughts, PromptsThatOpenOne) {
  EXPECT_TRUE(opens_thought("<|im_start|>assistant\n<think>\n"));
  EXPECT_TRUE(opens_thought("<|im_start|>assistant\n<think>"));
  EXPECT_TRUE(opens_thought("[/INST][THINK]"));
  EXPECT_TRUE(opens_thought("<seed:bos>assistant\n<seed:think>"));
  EXPECT_FALSE(opens_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_thought("<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_FALSE(opens_thought(""));
}

}  // namespace
}  // namespace bumblebee::serve::testing
