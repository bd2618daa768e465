// Calls as Llama 3 models write them.
#include <gtest/gtest.h>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string llama(std::string_view text) { return line(format_of(ToolFormat::llama), text); }

TEST(Llama, CallsAtTheBeginning) {
  EXPECT_EQ(llama(R"({"name": "f", "parameters": {"a": "b"}})"), R"(<0 f: {"a": "b"}>)");
  EXPECT_EQ(llama("\n\n{\"name\": \"f\", \"parameters\": {}}"), "<0 f: {}>");
  EXPECT_EQ(llama(R"({"type": "function", "name": "f", "parameters": {"a": 1}})"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(llama(R"({"parameters": {"a": 1}, "name": "f"})"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(llama(R"({"name": "f", "arguments": {"a": 1}, "more": true})"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(llama(R"({"name": "f", "parameters": null})"), "<0 f: {}>");
}

TEST(Llama, CallsAfterTheMark) {
  EXPECT_EQ(llama(R"(<|python_tag|>{"name": "f", "parameters": {"a": "b"}})"), R"(<0 f: {"a": "b"}>)");
  EXPECT_EQ(llama("I look. <|python_tag|> {\"x\": [], \"name\": \"f\"}"), "[I look.]<0 f: {}>");
  const std::string code = "<|python_tag|>import sys\nprint({})";
  EXPECT_EQ(llama(code), "[" + code + "]");
}

TEST(Llama, SeveralCalls) {
  const std::string call = R"({"name": "f", "parameters": {}})";
  EXPECT_EQ(llama(call + "; " + call + ";" + call + "\n" + call), "<0 f: {}><1 f: {}><2 f: {}><3 f: {}>");
  EXPECT_EQ(llama("<|python_tag|>" + call + "; " + call), "<0 f: {}><1 f: {}>");
  EXPECT_EQ(llama(call + "<|python_tag|>" + call), "<0 f: {}><1 f: {}>");
  EXPECT_EQ(llama(call + ";; " + call), "<0 f: {}>[;; " + call + "]");
  EXPECT_EQ(llama(call + "; so"), "<0 f: {}>[; so]");
  EXPECT_EQ(llama(call + "; "), "<0 f: {}>[; ]");
  EXPECT_EQ(llama(call + " so " + call), "<0 f: {}>[so " + call + "]");
}

TEST(Llama, JsonThatIsNoCallIsContent) {
  for (const char* text : {
           R"({"answer": 42})",
           R"({"name": "Ann", "parameters": {"age": 5}})",
           R"({"name": "f"})",
           R"({"name": "f", "description": "does f", "parameters": {}})",
           R"({"name": "f", "parameters": 5})",
           R"({"parameters": {"a": 1}})",
           R"([{"name": "f", "parameters": {}}])",
           R"(Call {"name": "f", "parameters": {}})",
           R"({"name": "f", "parameters": {)",
           R"({"name": "f", "parameters": {"a": 1]})",
           R"(<|python_tag|>{"name": "g", "parameters": {}})",
           R"(<|python_tag|)",
           R"(<|{"name": "f", "parameters": {}})",
           "{}",
           "{",
           "{{",
           "",
       }) {
    const TakenApart apart = take_apart(format_of(ToolFormat::llama), text);
    EXPECT_EQ(apart.calls, 0) << text;
    EXPECT_EQ(collected(apart.events).content, text);
  }
}

TEST(Llama, JsonThatIsAnAnswerStreamsFromItsFirstKeyOn) {
  const auto parser = make_answer_parser(format_of(ToolFormat::llama));
  std::vector<AnswerEvent> events;
  parser->push(R"({"answer)", events);
  EXPECT_TRUE(events.empty());
  parser->push(R"(": [1,)", events);
  EXPECT_EQ(line(events), R"([{"answer": [1,])");
}

TEST(Llama, AfterAThought) {
  AnswerFormat format = format_of(ToolFormat::llama, true);
  EXPECT_EQ(line(format, "<think>\nhm\n</think>\n\n{\"name\": \"f\", \"parameters\": {}}"), "{hm}<0 f: {}>");
}

TEST(Llama, OneCallIsEnough) {
  AnswerFormat format = format_of(ToolFormat::llama);
  format.parallel_tool_calls = false;
  const std::string call = R"({"name": "f", "parameters": {}})";
  EXPECT_EQ(line(format, call + "; " + call), "<0 f: {}>");
}

}  // namespace
}  // namespace bumblebee::serve::testing
