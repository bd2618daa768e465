// Calls as Hermes and Qwen models write them.
#include <gtest/gtest.h>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string hermes(std::string_view text) { return line(format_of(ToolFormat::hermes), text); }

TEST(Hermes, CallsAndTextBetweenThem) {
  EXPECT_EQ(hermes("Hello."), "[Hello.]");
  EXPECT_EQ(hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"), "<0 f: {\"a\": 1}>");
  EXPECT_EQ(hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": "
                   "\"get_weather\", \"arguments\": {\"city\": \"Ulm\"}}\n</tool_call>"),
            "<0 f: {\"a\": 1}><1 get_weather: {\"city\": \"Ulm\"}>");
  EXPECT_EQ(hermes("I look.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> Then\n"
                   "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>"),
            "[I look.]<0 f: {}>[\n Then]<1 f: {}>");
}

TEST(Hermes, BlanksBesideCallsAreGivenOnlyBetweenContent) {
  const std::string call = R"(<tool_call>{"name":"f","arguments":{}}</tool_call>)";
  EXPECT_EQ(hermes("\n\n" + call + "\n"), "<0 f: {}>");
  EXPECT_EQ(hermes(call + "\n done \n"), "<0 f: {}>[done \n]");
  EXPECT_EQ(hermes("a\n" + call + "\n" + call + "\nb"), "[a]<0 f: {}><1 f: {}>[\n\n\nb]");
  EXPECT_EQ(hermes(" a \n"), "[ a \n]");
}

TEST(Hermes, EmptyArgumentsStay) {
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f","arguments":{}}</tool_call>)"), "<0 f: {}>");
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f","arguments":{ }}</tool_call>)"), "<0 f: { }>");
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f","arguments":null}</tool_call>)"), "<0 f: {}>");
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f","arguments":""}</tool_call>)"), "<0 f: {}>");
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f"}</tool_call>)"), "<0 f: {}>");
}

TEST(Hermes, ArgumentsBeforeTheName) {
  EXPECT_EQ(hermes(R"(<tool_call>{"arguments": {"a": [1, 2]}, "name": "f"}</tool_call>)"), "<0 f: {\"a\": [1, 2]}>");
  EXPECT_EQ(hermes(R"(<tool_call>{"id": 12, "parameters": {"a": {}}, "x": [{}], "name": "f", "y": 1e3}</tool_call>)"),
            "<0 f: {\"a\": {}}>");
  EXPECT_EQ(hermes(R"(<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>)"),
            R"([<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>])");
}

TEST(Hermes, ArgumentsAreVerbatim) {
  EXPECT_EQ(
      hermes("<tool_call>{\"name\":\"f\",\"arguments\":{ \"a\" :\t1.50e+0,\n \"ä\\u00e9\":\"\\\"}\" }}</tool_call>"),
      "<0 f: { \"a\" :\t1.50e+0,\n \"ä\\u00e9\":\"\\\"}\" }>");
}

TEST(Hermes, TagsWithinStringsAreText) {
  EXPECT_EQ(hermes(R"(<tool_call>{"name":"f","arguments":{"a":"</tool_call><tool_call>{}"}}</tool_call>)"),
            R"(<0 f: {"a":"</tool_call><tool_call>{}"}>)");
}

TEST(Hermes, ArgumentsInAStringAreTakenOut) {
  EXPECT_EQ(
      hermes(R"(<tool_call>{"name":"f","arguments":"{\"a\": \"x\\ny\", \"\u00e4\": \"\ud83d\ude00\"}"}</tool_call>)"),
      "<0 f: {\"a\": \"x\\ny\", \"ä\": \"😀\"}>");
  for (const char* broken : {R"("no object")", R"("[1]")", R"("{\"a\": 1")", R"("{\"a\": 1} 2")", R"("\ud83d")",
                             R"("{\"a\":\"\ud83dx\"}")", R"("{\"a\":\"\ude00\"}")", R"("{\"a\":\"\n\"}")"}) {
    const std::string text = std::string(R"(<tool_call>{"name":"f","arguments":)") + broken + "}</tool_call>";
    const TakenApart apart = take_apart(format_of(ToolFormat::hermes), text);
    EXPECT_EQ(apart.calls, 0) << broken;
    EXPECT_EQ(collected(apart.events).content, text) << broken;
  }
}

TEST(Hermes, WhatIsNoCallIsContentAsItWasWritten) {
  for (const char* text : {
           "<tool_call>",
           "<tool_call>\n",
           "<tool_call>f()</tool_call>",
           "a <tool_call>\n\n [] </tool_call> b",
           R"(<tool_call>{}</tool_call>)",
           R"(<tool_call>{"name":"unknown","arguments":{}}</tool_call>)",
           R"(<tool_call>{"name":"f ","arguments":{}}</tool_call>)",
           R"(<tool_call>{"name":["f"],"arguments":{}}</tool_call>)",
           R"(<tool_call>{"name":1,"arguments":{}}</tool_call>)",
           R"(<tool_call>{"arguments":{}}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":[1]}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":12}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":nul}</tool_call>)",
           R"(<tool_call>{"name":"f","name":"f","arguments":{}}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{},"parameters":{}}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{},}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{}}}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{}} {}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{}}</tool_call)"
           "!",
           R"(<tool_call>{"name":"f","arguments":{'a':1}}</tool_call>)",
           R"(<tool_call>{"name":"f","arguments":{"a":tru}}</tool_call>)",
           "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"two\nlines\"}}</tool_call>",
           R"(<tool_call>{"name":"f","arguments":{"a":1)",
           R"(<tool_call>{"name":"f","argum)",
           "<tool_cal",
           "<<tool_cal <tool_calls>",
           " \n ",
       }) {
    const TakenApart apart = take_apart(format_of(ToolFormat::hermes), text);
    EXPECT_EQ(apart.calls, 0) << text;
    EXPECT_EQ(collected(apart.events).content, text);
    EXPECT_TRUE(collected(apart.events).calls.empty()) << text;
  }
}

TEST(Hermes, ACallThatBreaksIsWithdrawnAndTheNextHasItsOwnIndex) {
  EXPECT_EQ(
      hermes("<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":x}}</tool_call>\n"
             "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>"),
      "<0 f: {\"a\":><0 withdrawn>[<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":x}}</tool_call>]<1 f: {\"a\":1}>");
  EXPECT_EQ(hermes("<tool_call><tool_call>{\"name\":\"f\"}</tool_call>"), "[<tool_call>]<0 f: {}>");
  EXPECT_EQ(hermes("<tool_<tool_call>{\"name\":\"f\"}</tool_call>"), "[<tool_]<0 f: {}>");
}

TEST(Hermes, TheClosingTagMayBeMissingAtTheEnd) {
  for (const char* end : {"", "\n", "\n</tool_", "</tool_call>"}) {
    EXPECT_EQ(hermes(std::string(R"(<tool_call>{"name":"f","arguments":{}})") + end), "<0 f: {}>");
  }
}

TEST(Hermes, IdAndNameComeFirstAndArgumentsAsTheyCome) {
  const auto parser = make_answer_parser(format_of(ToolFormat::hermes));
  std::vector<AnswerEvent> events;
  parser->push(R"(<tool_call>{"name": "f", "arguments": )", events);
  EXPECT_EQ(line(events), "");
  parser->push("{", events);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, AnswerEvent::Kind::tool_call);
  EXPECT_EQ(events[0].name, "f");
  EXPECT_EQ(events[0].id.substr(0, 5), "call_");
  EXPECT_EQ(events[0].id.size(), 29u);
  for (const std::string_view piece : {"\"pa", "th\": ", "\"a", "b\"}"}) {
    events.clear();
    parser->push(piece, events);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].kind, AnswerEvent::Kind::arguments);
    EXPECT_EQ(events[0].text, piece);
  }
  events.clear();
  parser->push("}\n", events);
  EXPECT_TRUE(events.empty());
  EXPECT_EQ(parser->calls(), 0);
  parser->push("</tool_call>", events);
  EXPECT_TRUE(events.empty());
  EXPECT_EQ(parser->calls(), 1);
  EXPECT_FALSE(parser->enough());
}

TEST(Hermes, OneCallIsEnoughWithoutParallelCalls) {
  AnswerFormat format = format_of(ToolFormat::hermes);
  format.parallel_tool_calls = false;
  const std::string call = R"(<tool_call>{"name":"f","arguments":{}}</tool_call>)";
  EXPECT_EQ(line(format, "a" + call + "b" + call), "[a]<0 f: {}>");
  EXPECT_TRUE(take_apart(format, call + "b").enough);
  EXPECT_FALSE(take_apart(format, "<tool_call>{\"name\":\"g\"}</tool_call>").enough);
}

TEST(Hermes, WithoutToolsEverythingIsContent) {
  AnswerFormat format = format_of(ToolFormat::hermes);
  format.tool_names.clear();
  EXPECT_EQ(line(format, R"( <tool_call>{"name":"f"}</tool_call> )"), R"([ <tool_call>{"name":"f"}</tool_call> ])");
}

TEST(Hermes, PlainTextIsNotHeldBack) {
  const auto parser = make_answer_parser(format_of(ToolFormat::hermes));
  for (const auto& [piece, given] : std::vector<std::pair<std::string, std::string>>{
           {"Hel", "[Hel]"}, {"lo ", "[lo]"}, {"you <", "[ you]"}, {"b> <to", "[ <b>]"}, {"x", "[ <tox]"}}) {
    std::vector<AnswerEvent> events;
    parser->push(piece, events);
    EXPECT_EQ(line(events), given);
  }
}

}  // namespace
}  // namespace bumblebee::serve::testing
