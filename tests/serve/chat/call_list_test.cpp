// Lists of calls as Granite 3 and Phi-4-mini write them.
#include <gtest/gtest.h>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string granite(std::string_view text) { return line(format_of(ToolFormat::granite), text); }
std::string phi4(std::string_view text) { return line(format_of(ToolFormat::phi4), text); }

TEST(CallList, OfGranite) {
  EXPECT_EQ(granite("Hello."), "[Hello.]");
  EXPECT_EQ(granite(R"(<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"arguments": {}, "name": "get_weather"}])"),
            R"(<0 f: {"a": 1}><1 get_weather: {}>)");
  EXPECT_EQ(granite(R"(<|tool_call|> {"name": "f", "arguments": "{\"a\": 1}"})"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(granite("I look. <|tool_call|>[\n {\"name\": \"f\"}\n]\nDone."), "[I look.]<0 f: {}>[ \nDone.]");
  EXPECT_EQ(granite(R"(functools[{"name": "f", "arguments": {}}])"), R"([functools[{"name": "f", "arguments": {}}]])");
}

TEST(CallList, OfGraniteWithTheOtherMark) {
  EXPECT_EQ(granite(R"(<tool_call>[{"name": "f"}, {"name": "get_weather", "arguments": {"a": 1}}])"),
            R"(<0 f: {}><1 get_weather: {"a": 1}>)");
  EXPECT_EQ(granite(R"(I look. <tool_call>[{"name": "f"}]<|tool_call|>[{"name": "f"}] <tool_call>[{"name": "f"}])"),
            "[I look.]<0 f: {}><1 f: {}><2 f: {}>");
  for (const char* text :
       {"<tool_call>", "<tool_call|>", "<|tool_call>[", "<tool_", "<<|tool", R"(<tool_call>x<|tool_)"})
    EXPECT_EQ(granite(text), "[" + std::string(text) + "]");
  EXPECT_EQ(phi4(R"(<tool_call>[{"name": "f"}])"), R"([<tool_call>[{"name": "f"}]])");
}

TEST(CallList, OfPhi4) {
  EXPECT_EQ(phi4(R"(<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>)"), "<0 f: {}>");
  EXPECT_EQ(phi4(R"(<|tool_call|>[{"name": "f", "parameters": {"a": 1}}])"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(phi4(R"(functools[{"name": "f", "arguments": {}},{"name": "f", "arguments": {"b": 2}}])"),
            R"(<0 f: {}><1 f: {"b": 2}>)");
  EXPECT_EQ(phi4(R"(<|tool_call|>{"name": "f"}<|/tool_call|>)"), "<0 f: {}>");
  EXPECT_EQ(phi4(R"(<|tool_call|>[{"name": "f"}] and <|/tool)"), "<0 f: {}>[and <|/tool]");
  EXPECT_EQ(phi4("\n"
                 R"(functools[{"name": "f"}])"),
            "<0 f: {}>");
  for (const char* text :
       {"functools", "function", R"(Use functools[{"name": "f"}])", "functools {}", "f", "functools[1]"})
    EXPECT_EQ(phi4(text), "[" + std::string(text) + "]");
}

TEST(CallList, AnotherListWithoutTheClosingMark) {
  EXPECT_EQ(phi4(R"(<|tool_call|>[{"name":"f"}]<|tool_call|>[{"name":"get_weather"}]<|/tool_call|>)"),
            "<0 f: {}><1 get_weather: {}>");
  EXPECT_EQ(phi4(R"(<|tool_call|>{"name":"f"} <|tool_call|> {"name":"get_weather"})"), "<0 f: {}><1 get_weather: {}>");
  EXPECT_EQ(phi4(R"(functools[{"name":"f"}]<|tool_call|>[{"name":"f"}])"), "<0 f: {}><1 f: {}>");
  EXPECT_EQ(phi4(R"(<|tool_call|>[{"name":"f"}]<|tool_call|>x)"), "<0 f: {}>[<|tool_call|>x]");
  EXPECT_EQ(granite(R"(<|tool_call|>[{"name":"f"}]<|tool_call|>{"name":"f"}<|tool_call|>[{"name":"f"}])"),
            "<0 f: {}><1 f: {}><2 f: {}>");
}

TEST(CallList, CallsWithoutBrackets) {
  for (const auto& read : {granite, phi4}) {
    EXPECT_EQ(read(R"(<|tool_call|>{"name":"f"}, {"name":"get_weather"} So.)"), "<0 f: {}><1 get_weather: {}>[So.]");
    EXPECT_EQ(read(R"(<|tool_call|>{"name":"f"}, and so on)"), "<0 f: {}>[, and so on]");
    EXPECT_EQ(read(R"(<|tool_call|>{"name":"f"}])"), "<0 f: {}>[]]");
  }
  EXPECT_EQ(phi4(R"(<|tool_call|>{"name":"f"},{"name":"f"}<|/tool_call|>)"), "<0 f: {}><1 f: {}>");
}

TEST(CallList, WhatIsNoCallStays) {
  for (const char* text : {"<|tool_call|>", "<|tool_call|>[]", "<|tool_call|>x", R"(<|tool_call|>[{"name": "other"}])",
                           "<|tool_call|>[{}]", "<|tool_", R"(<|tool_call|>[1])"}) {
    EXPECT_EQ(granite(text), "[" + std::string(text) + "]");
    EXPECT_EQ(phi4(text), "[" + std::string(text) + "]");
  }
  EXPECT_EQ(granite(R"(<|tool_call|>[{"name": "f"}; {"name": "f"}])"), R"(<0 f: {}>[; {"name": "f"}]])");
}

}  // namespace
}  // namespace bumblebee::serve::testing
