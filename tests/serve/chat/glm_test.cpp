// Calls as GLM-4.5 and later write them.
#include <gtest/gtest.h>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string glm(std::string_view text) { return line(format_of(ToolFormat::glm), text); }

TEST(Glm, CallsWithAndWithoutLineEnds) {
  EXPECT_EQ(glm("Hello."), "[Hello.]");
  EXPECT_EQ(glm("\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n"
                "<arg_value>x y</arg_value>\n</tool_call>"),
            R"(<0 f: {"a": 1, "b": "x y"}>)");
  EXPECT_EQ(glm("<tool_call>f<arg_key>a</arg_key><arg_value>{\"b\": [true]}</arg_value></tool_call>"
                "<tool_call>get_weather</tool_call>"),
            R"(<0 f: {"a": {"b": [true]}}><1 get_weather: {}>)");
  EXPECT_EQ(glm("I look.\n<tool_call> f \n</tool_call>\nDone."), "[I look.]<0 f: {}>[\n\nDone.]");
}

TEST(Glm, ValuesAreWhatTheirSchemaSays) {
  AnswerFormat format = format_of(ToolFormat::glm);
  format.text_parameters = {{"f", {{"zip", false}, {"note", true}}}};
  EXPECT_EQ(line(format,
                 "<tool_call>f\n<arg_key>zip</arg_key>\n<arg_value>01234</arg_value>\n<arg_key>n</arg_key>\n"
                 "<arg_value>5</arg_value>\n<arg_key>note</arg_key>\n<arg_value>null</arg_value>\n</tool_call>"),
            R"(<0 f: {"zip": "01234", "n": 5, "note": null}>)");
  // Line ends and marks within a value are its own.
  EXPECT_EQ(glm("<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>\nx </tool_call>\n</arg_value>\n</tool_call>"),
            "<0 f: {\"a\": \"\\nx </tool_call>\\n\"}>");
}

TEST(Glm, BlanksAroundKeys) {
  AnswerFormat format = format_of(ToolFormat::glm);
  format.text_parameters = {{"f", {{"zip", false}}}};
  EXPECT_EQ(line(format, "<tool_call>f<arg_key>\n zip </arg_key><arg_value>01</arg_value></tool_call>"),
            R"(<0 f: {"zip": "01"}>)");
}

TEST(Glm, WhatIsNoCallStays) {
  for (const char* text : {
           "<tool_call>other\n</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
           "<tool_call>",
           "<tool_call>f",
       }) {
    EXPECT_EQ(glm(text), "[" + std::string(text) + "]");
  }
  // Begun, and broken or cut: withdrawn.
  for (const char* text :
       {"<tool_call>f\n<arg_key>a</arg_key>1", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>",
        "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value><arg_key> "
        "a</arg_key><arg_value>2</arg_value></tool_call>",
        "<tool_call>f\nx</tool_call>", "<tool_call>f<arg_value>1</arg_value></tool_call>"}) {
    const Collected all = collected(take_apart(format_of(ToolFormat::glm), text).events);
    EXPECT_TRUE(all.calls.empty()) << text;
    EXPECT_EQ(all.content, text);
  }
  const std::string name(200, 'x');
  EXPECT_EQ(glm("<tool_call>" + name), "[<tool_call>" + name + "]");
}

}  // namespace
}  // namespace bumblebee::serve::testing
