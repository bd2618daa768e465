// Calls as DeepSeek's models write them.
#include <gtest/gtest.h>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

const std::string kBegin = "<｜tool▁calls▁begin｜>", kEnd = "<｜tool▁calls▁end｜>", kCall = "<｜tool▁call▁begin｜>",
                  kCallEnd = "<｜tool▁call▁end｜>", kSeparator = "<｜tool▁sep｜>";

std::string deepseek(std::string_view text) { return line(format_of(ToolFormat::deepseek), text); }
std::string call(const std::string& name, const std::string& arguments) {
  return kCall + name + kSeparator + arguments + kCallEnd;
}
std::string block(const std::string& name, const std::string& arguments) {
  return kCall + "function" + kSeparator + name + "\n```json\n" + arguments + "\n```" + kCallEnd;
}

TEST(Deepseek, CallsOfBothEditions) {
  EXPECT_EQ(deepseek("Hello."), "[Hello.]");
  EXPECT_EQ(deepseek("I look." + kBegin + call("f", R"({"a": 1})") + call("get_weather", "{}") + kEnd),
            R"([I look.]<0 f: {"a": 1}><1 get_weather: {}>)");
  EXPECT_EQ(deepseek(kBegin + block("f", R"({"a": "```"})") + "\n" + block("get_weather", "{\n  \"b\": [1]\n}") + kEnd +
                     "\n"),
            "<0 f: {\"a\": \"```\"}><1 get_weather: {\n  \"b\": [1]\n}>");
}

TEST(Deepseek, BlanksAroundNames) {
  EXPECT_EQ(deepseek(kBegin + call(" f\r\n", " {}") + kEnd), "<0 f: {}>");
  EXPECT_EQ(deepseek(kBegin + kCall + "function" + kSeparator + " f \r\n```json\r\n{}\r\n```" + kCallEnd + kEnd),
            "<0 f: {}>");
}

TEST(Deepseek, AToolMayBeCalledFunction) {
  AnswerFormat format = format_of(ToolFormat::deepseek);
  format.tool_names = {"function"};
  EXPECT_EQ(line(format, kBegin + call("function", "{}") + kEnd), "<0 function: {}>");
}

TEST(Deepseek, TheLastMarksMayBeMissing) {
  EXPECT_EQ(deepseek(kBegin + call("f", "{}")), "<0 f: {}>");
  EXPECT_EQ(deepseek(kBegin + kCall + "f" + kSeparator + "{}"), "<0 f: {}>");
  EXPECT_EQ(deepseek(kBegin + kCall + "function" + kSeparator + "f\n```json\n{}\n``"), "<0 f: {}>");
}

TEST(Deepseek, WhatIsNoCallStays) {
  for (const std::string& text :
       {kBegin, kBegin + kEnd, kBegin + "x", kCall + "f" + kSeparator + "{}", kBegin + kCall + "f{}",
        kBegin + call("other", "{}") + kEnd, kBegin + block("other", "{}") + kEnd, kBegin + call("function", "f"),
        kBegin + kCall + std::string(300, 'x')}) {
    EXPECT_EQ(deepseek(text), "[" + text + "]");
  }
  for (const std::string& text :
       {kBegin + call("f", "{\"a\": }"), kBegin + call("f", "[1]"), kBegin + call("f", "{} x")}) {
    const Collected all = collected(take_apart(format_of(ToolFormat::deepseek), text).events);
    EXPECT_TRUE(all.calls.empty()) << text;
    EXPECT_EQ(all.content, text);
  }
  // What is broken after a call that is whole.
  EXPECT_EQ(deepseek(kBegin + call("f", "{}") + "and so on"), "<0 f: {}>[and so on]");
}

}  // namespace
}  // namespace bumblebee::serve::testing
