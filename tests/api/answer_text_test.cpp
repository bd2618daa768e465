// The whole way of an answer in channels: from tokens, through stop strings and what is left out, to thoughts and
// calls.
#include "api/answer_text.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/mark_byte.h"
#include "bumblebee/generation.h"
#include "tests/serve/chat/taken_apart.h"
#include "tests/text/small_tokenizer.h"

namespace bumblebee::api {
namespace {

using serve::ToolFormat;
using serve::testing::format_of;

const char* const kHarmony[] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>",
                                "<|end|>",   "<|return|>",  "<|call|>"};
const char* const kGemma[] = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>"};

const txt::Tokenizer& harmony() {
  static const txt::Tokenizer tokenizer = testing::small_tokenizer_with(kHarmony);
  return tokenizer;
}

const txt::Tokenizer& gemma() {
  static const txt::Tokenizer tokenizer = testing::small_tokenizer_with(kGemma);
  return tokenizer;
}

struct Answered {
  std::string text, marked;  // marked: with ^ before each mark
  int thought = 0;           // tokens
  std::string stop;
  std::vector<size_t> marks = {};
  std::string said() const {
    bumblebee::text::Result result;
    result.text = text;
    result.marks = marks;
    return result.without_thoughts();
  }
};

/// What comes of `written`. What stands between two @ comes as ordinary text, whatever it is.
Answered answered(const txt::Tokenizer& tokenizer, const std::string& written, const GenerationConfig& config = {},
                  bool skip_special = true) {
  AnswerText text(tokenizer, config, {}, skip_special);
  Answered out;
  const auto add = [&](const std::string& piece) {
    for (const size_t mark : text.marks()) out.marks.push_back(out.text.size() + mark);
    out.text += piece;
    std::string marked = piece;
    for (size_t i = text.marks().size(); i-- > 0;) marked.insert(text.marks()[i], "^");
    out.marked += marked;
    out.thought += text.in_thought();
  };
  bool plain = false;
  for (size_t at = 0; at <= written.size() && !text.stopped(); plain = !plain) {
    const size_t end = std::min(written.find('@', at), written.size());
    const auto control = plain ? txt::ControlTokens::as_text : txt::ControlTokens::parse;
    for (const int32_t id : tokenizer.encode(written.substr(at, end - at), {.control = control})) {
      if (!text.stopped()) add(text.push(id));
    }
    at = end + 1;
  }
  add(text.flush());
  out.stop = text.stop_string();
  return out;
}

std::string parsed(const txt::Tokenizer& tokenizer, ToolFormat format, const std::string& written,
                   bool skip_special = true) {
  return serve::testing::certain_line(format_of(format, true), answered(tokenizer, written, {}, skip_special).marked);
}

GenerationConfig stops_at(std::vector<std::string> stops) {
  GenerationConfig config;
  config.stop_strings = std::move(stops);
  return config;
}

const std::string kThought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant";

/// What a conversation goes on with: a thought may speak of the tag that ends it, and an answer of both.
TEST(AnswerText, WhatWasSaid) {
  const std::string said = "<|channel|>final<|message|>";
  EXPECT_EQ(answered(harmony(), kThought + said + "So.").said(), "So.");
  EXPECT_EQ(answered(harmony(), "<|channel|>analysis<|message|>The tag @</think>@ closes.<|end|><|start|>assistant" +
                                    said + "It is @</think>@.")
                .said(),
            "It is </think>.");
  EXPECT_EQ(answered(harmony(), said + "@<think>@ opens and @</think>@ closes.").said(),
            "<think> opens and </think> closes.");
  EXPECT_EQ(answered(harmony(), "<|channel|>analysis<|message|>Hm").said(), "");
  EXPECT_EQ(answered(gemma(), "<|channel>thought\nHm @</think>@<channel|>So.").said(), "So.");
  EXPECT_EQ(answered(harmony(), said + "Wait.<|end|><|start|>assistant" + kThought + said + "So.").said(),
            "Wait.\nSo.");
}

/// Of models that write tags themselves the first is the thought's, at the beginning of the answer.
TEST(AnswerText, WhatWasSaidWithoutMarks) {
  const auto said = [](const std::string& text) {
    bumblebee::text::Result result;
    result.text = text;
    return result.without_thoughts();
  };
  EXPECT_EQ(said("So."), "So.");
  EXPECT_EQ(said("<think>\nHm\n</think>\n\nSo."), "So.");
  EXPECT_EQ(said("<think>Hm</think>It is </think>."), "It is </think>.");
  EXPECT_EQ(said("It is <think>x</think>."), "It is <think>x</think>.");
  EXPECT_EQ(said("<think>Hm"), "");
  EXPECT_EQ(said("<seed:think>Hm</seed:think>So."), "So.");
  EXPECT_EQ(said("<thinking>Hm</thinking>\nSo."), "So.");
  EXPECT_EQ(said("<think>Hm</think>\n"), "");
  EXPECT_EQ(said(""), "");
}

TEST(AnswerText, OnlyControlTokensMakeCallsAndEndThoughts) {
  const auto harmony_line = [](const std::string& written) { return parsed(harmony(), ToolFormat::harmony, written); };
  const std::string call = "<|channel|>commentary to=functions.f<|message|>{}<|call|>";
  EXPECT_EQ(harmony_line(kThought + call), "{Hm.}<0 f: {}>");
  EXPECT_EQ(harmony_line(kThought + "<|channel|>final<|message|>@" + call + "@"), "{Hm.}[" + call + "]");
  EXPECT_EQ(harmony_line("@" + call + "@"), "[" + call + "]");
  EXPECT_EQ(harmony_line("<|channel|>analysis<|message|>The tag @</think>@ closes.<|end|><|start|>assistant"
                         "<|channel|>final<|message|>So."),
            "{The tag </think> closes.}[So.]");
  EXPECT_EQ(
      harmony_line("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>analysis<|message|>"
                   "more<|end|><|start|>assistant" +
                   call),
      "[I look.]{more}<0 f: {}>");

  const auto gemma_line = [](const std::string& written) { return parsed(gemma(), ToolFormat::gemma4, written); };
  EXPECT_EQ(gemma_line("<|channel>thought\nHm<channel|><|tool_call>call:f{a:<|\"|>x@<|\"|>@y<|\"|>}<tool_call|>"),
            "{Hm}<0 f: {\"a\": \"x<|\\\"|>y\"}>");
  EXPECT_EQ(gemma_line("Say @<|tool_call>call:f{}<tool_call|>@."), "[Say <|tool_call>call:f{}<tool_call|>.]");
}

TEST(AnswerText, ControlTokensThatAreTextAreMarksToo) {
  const std::string call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>";
  EXPECT_EQ(answered(harmony(), "a" + call, {}, false).text, "a" + call);
  EXPECT_EQ(parsed(harmony(), ToolFormat::harmony, "a" + call, false), "[a]<0 f: {}>");
  EXPECT_EQ(parsed(harmony(), ToolFormat::harmony, "a@" + call + "@", false), "[a" + call + "]");
  EXPECT_EQ(answered(harmony(), "a<|end|>b", stops_at({"<|end|>"}), false).text, "a");
}

TEST(AnswerText, StopStringsSeeWhatTheModelWrote) {
  const std::string answer = kThought + "<|channel|>final<|message|>";
  EXPECT_EQ(answered(harmony(), answer + "So.\n\nNo.", stops_at({"\n\n"})).text, "<think>\nHm.\n</think>\n\nSo.");
  for (const char* stop : {"think", "</think>", "final", "assistant", ".S", ".\n"})
    EXPECT_EQ(answered(harmony(), answer + "So.", stops_at({stop})).text, "<think>\nHm.\n</think>\n\nSo.") << stop;
  EXPECT_EQ(answered(gemma(), "<|channel>thought\nHm<channel|>So.", stops_at({"\n", "thought"})).text,
            "<think>\nHm\n</think>\n\nSo.");
}

TEST(AnswerText, StopStringsSpellControlTokens) {
  for (const char* stop :
       {"<|channel|>final<|message|>", "<|end|><|start|>assistant", "analysis<|message|>So", "<|end|>", ".<|end|>"}) {
    const Answered got = answered(harmony(), kThought + "<|channel|>final<|message|>So.", stops_at({stop}));
    if (std::string(stop).starts_with("analysis")) {
      EXPECT_EQ(got.stop, "") << stop;
    } else {
      EXPECT_EQ(got.stop, stop);
      EXPECT_EQ(got.text.find("So"), std::string::npos) << stop;
    }
  }
  EXPECT_EQ(answered(gemma(), "a<|tool_call>call:f{}<tool_call|>", stops_at({"<|tool_call>"})).text, "a");
}

TEST(AnswerText, LeavesThoughtsOut) {
  GenerationConfig config;
  config.strip.think = true;
  EXPECT_EQ(answered(harmony(),
                     "<|channel|>analysis<|message|>The tag @</think>@ closes.<|end|><|start|>assistant"
                     "<|channel|>final<|message|>A @<think>@.",
                     config)
                .text,
            "A <think>.");
}

TEST(AnswerText, LeavesOutAThoughtThatThePromptOpens) {
  const txt::Tokenizer tokenizer = testing::small_tokenizer();
  GenerationConfig config;
  config.strip.think = true;
  for (const char* open : {"<think>\n", "<thinking>", "[THINK]", "<seed:think>"}) {
    AnswerText text(tokenizer, config, tokenizer.encode(std::string("Hi") + open), true);
    std::string out;
    for (const int32_t id : tokenizer.encode("Hm</seed:think>So.")) out += text.push(id);
    EXPECT_EQ(out + text.flush(), "So.") << open;
  }
}

TEST(AnswerText, CountsTheTokensOfThoughts) {
  EXPECT_EQ(answered(harmony(), kThought + "<|channel|>final<|message|>So").thought, 3);
  EXPECT_EQ(answered(gemma(), "So").thought, 0);
}

}  // namespace
}  // namespace bumblebee::api
