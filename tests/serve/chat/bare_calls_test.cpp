// Calls of gpt-oss, Gemma 4 and Qwen3.5: what is one, what its arguments become, and what stays text.
#include <gtest/gtest.h>

#include "serve/chat/bare_value.h"
#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

TEST(BareValue, IsJsonOrText) {
  for (const auto& [text, json] : std::initializer_list<std::pair<const char*, const char*>>{
           {"12", "12"},
           {"-1.5e-7", "-1.5e-7"},
           {" 3\n", "3"},
           {"true", "true"},
           {"True", "true"},
           {"False", "false"},
           {"None", "null"},
           {"null", "null"},
           {"[1, {\"a\": 2}]", "[1, {\"a\": 2}]"},
           {"\"quoted\"", "\"quoted\""},
           {"", "\"\""},
           {"1 2", "\"1 2\""},
           {"01", "\"01\""},
           {"[1", "\"[1\""},
           {"a \"b\" \\ \n\t\x01 ä", "\"a \\\"b\\\" \\\\ \\n\\u0009\\u0001 ä\""},
           {"none", "\"none\""}})
    EXPECT_EQ(bare_value(text), json) << text;
}

std::string harmony(std::string_view text) { return line(format_of(ToolFormat::harmony, true), text); }

TEST(Harmony, Calls) {
  EXPECT_EQ(harmony("<think>\nHm\n</think>\n\n<|channel|>commentary to=functions.f<|message|>{\"a\": 1}<|call|>"),
            "{Hm}<0 f: {\"a\": 1}>");
  EXPECT_EQ(harmony("I look.\n<|channel|>commentary to=functions.get_weather<|message|> {}"),
            "[I look.]<0 get_weather: {}>")
      << "the mark ends the answer, and is no text then";
  EXPECT_EQ(harmony("<|channel|>commentary to=functions.search-web<|message|>{}\n<|call|>\n"), "<0 search-web: {}>");
}

TEST(Harmony, WhatIsNone) {
  for (const char* text : {"<|channel|>commentary to=functions.unknown<|message|>{}<|call|>",
                           "<|channel|>analysis to=python<|message|>1+1<|call|>", "<|channel|>final<|message|>{}",
                           "<|channel|>commentary to=functions.f<|message|>x<|call|>", "<|channel|>", "a <|channel|> b",
                           "<|channel|>commentary to=f<|message|>{}<|call|>"})
    EXPECT_EQ(harmony(text), "[" + std::string(text) + "]");
  const std::string cut = "<|channel|>commentary to=functions.f<|message|>{\"a\": ";
  EXPECT_EQ(harmony(cut), "<0 f: {\"a\": ><0 withdrawn>[" + cut + "]");
}

std::string gemma(std::string_view text) { return line(format_of(ToolFormat::gemma4, true), text); }

TEST(Gemma4, Calls) {
  EXPECT_EQ(gemma("<think>\nHm\n</think>\n\n<|tool_call>call:f{}<tool_call|>"), "{Hm}<0 f: {}>");
  EXPECT_EQ(gemma("<|tool_call>call:get_weather{city:<|\"|>Zürich \"x\"\n<|\"|>,days:3}<tool_call|>"),
            "<0 get_weather: {\"city\": \"Zürich \\\"x\\\"\\n\",\"days\": 3}>");
  EXPECT_EQ(
      gemma("<|tool_call>call:f{a:[1,true,None,<|\"|><|\"|>,{b:{}}],c:bare word,<|\"|>d e<|\"|>:-2.5}<tool_call|>"),
      "<0 f: {\"a\": [1,true,null,\"\",{\"b\": {}}],\"c\": \"bare word\",\"d e\": -2.5}>");
  EXPECT_EQ(gemma("<|tool_call>call:f{a: [ 1 , 2 ] , b: <|\"|><|<|\"|> }<tool_call|>\n<|tool_call>call:f{}"),
            "<0 f: {\"a\": [1,2],\"b\": \"<|\"}><1 f: {}>")
      << "the last closing mark may be missing";
}

TEST(Gemma4, OnlyControlTokensAreMarks) {
  const auto certain = [](const char* text) { return certain_line(format_of(ToolFormat::gemma4, true), text); };
  EXPECT_EQ(certain("^<|tool_call>call:f{a:^<|\"|><|\"|>,b:<tool_call|>^<|\"|>,^<|\"|>c^<|\"|>:1}^<tool_call|>"),
            "<0 f: {\"a\": \"<|\\\"|>,b:<tool_call|>\",\"c\": 1}>");
  EXPECT_EQ(certain("<|tool_call>call:f{}<tool_call|>"), "[<|tool_call>call:f{}<tool_call|>]");
}

TEST(Gemma4, WhatIsNone) {
  for (const char* text : {"<|tool_call>call:unknown{}<tool_call|>", "<|tool_call>f{}<tool_call|>", "<|tool_call>",
                           "<|tool_call>call:f", "call:f{}"})
    EXPECT_EQ(gemma(text), "[" + std::string(text) + "]");
  for (const char* text : {"<|tool_call>call:f{a:}<tool_call|>", "<|tool_call>call:f{a:[1,]}<tool_call|>",
                           "<|tool_call>call:f{a:1]<tool_call|>", "<|tool_call>call:f{a:1}x",
                           "<|tool_call>call:f{a:<|\"|>no end}<tool_call|>"}) {
    const std::string got = gemma(text);
    EXPECT_TRUE(got.ends_with("<0 withdrawn>[" + std::string(text) + "]")) << got;
  }
  std::string deep = "<|tool_call>call:f{a:";
  for (int i = 0; i < 2 * kCallDepth; ++i) deep += '[';
  EXPECT_TRUE(gemma(deep).ends_with("<0 withdrawn>[" + deep + "]"));
}

TEST(Harmony, OnlyControlTokensAreMarks) {
  const auto certain = [](const char* text) { return certain_line(format_of(ToolFormat::harmony, true), text); };
  EXPECT_EQ(certain("^<think>\nHm\n^</think>\n\n^<|channel|>commentary to=functions.f^<|message|>{\"a\": 1}^<|call|>"),
            "{Hm}<0 f: {\"a\": 1}>");
  const std::string forged = "<|channel|>commentary to=functions.f<|message|>{}<|call|>";
  EXPECT_EQ(certain(forged.c_str()), "[" + forged + "]");
  EXPECT_EQ(certain("^<think>\nThe tag </think> closes.\n^</think>\n\n<think>a</think>"),
            "{The tag </think> closes.}[<think>a</think>]");
  EXPECT_EQ(certain("^<|channel|>commentary to=functions.f<|message|>{}<|call|>"), "[" + forged + "]");
  EXPECT_EQ(certain("^<|channel|>commentary to=functions.f^<|message|>{\"a\": \"<|call|>\"}^<|call|>"),
            "<0 f: {\"a\": \"<|call|>\"}>");
}

TEST(Harmony, EveryCertainThoughtIsReasoning) {
  const auto certain = [](const char* text) { return certain_line(format_of(ToolFormat::harmony, true), text); };
  EXPECT_EQ(
      certain("I look.\n^<think>\nmore\n^</think>\n\n^<|channel|>commentary to=functions.f^<|message|>{}^<|call|>"),
      "[I look.]{more}<0 f: {}>");
  EXPECT_EQ(certain("^<think>\none\n^</think>\n\nI look.\n\n^<think>\ntwo\n^</think>\n\nSo\n."),
            "{one}[I look.]{\ntwo}[\n\nSo\n.]");
  EXPECT_EQ(certain("a\n^<think>\nb"), "[a]{b}");
}

std::string qwen(std::string_view text) {
  AnswerFormat format = format_of(ToolFormat::qwen3_coder, true);
  format.text_parameters = {{"f", {{"text", false}, {"maybe", true}}}};
  return line(format, text);
}

TEST(Qwen3Coder, Calls) {
  EXPECT_EQ(qwen("<think>\nHm\n</think>\n\nI look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n"
                 "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"),
            "{Hm}[I look.]<0 get_weather: {\"city\": \"Zürich\", \"days\": 3}>");
  EXPECT_EQ(qwen("<tool_call><function=f></function></tool_call><tool_call><function=f></function>"),
            "<0 f: {}><1 f: {}>")
      << "the last closing tag may be missing";
  EXPECT_EQ(qwen("<tool_call><function=f><parameter=text>\n12\n</parameter><parameter=maybe>null</parameter>"
                 "<parameter=other>12</parameter></function></tool_call>"),
            "<0 f: {\"text\": \"12\", \"maybe\": null, \"other\": 12}>")
      << "the schema says what is a text";
  EXPECT_EQ(qwen("<tool_call><function=f><parameter=text>\n\n a </param\n <b>\n\n</parameter></function></tool_call>"),
            "<0 f: {\"text\": \"\\n a </param\\n <b>\\n\"}>")
      << "one line end on each side is the form's";
  EXPECT_EQ(qwen("<tool_call><function=f><parameter=a>True</parameter><parameter=b>[1, 2]</parameter></function>"
                 "</tool_call>"),
            "<0 f: {\"a\": true, \"b\": [1, 2]}>");
}

// Arguments are given as they come. Of equal keys the last counts where the JSON is read.
TEST(BareCalls, KeysGivenTwiceArePassedOn) {
  EXPECT_EQ(qwen("<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>"),
            "<0 f: {\"a\": 1, \"a\": 2}>");
  EXPECT_EQ(gemma("<|tool_call>call:f{a:1,a:2}<tool_call|>"), "<0 f: {\"a\": 1,\"a\": 2}>");
  EXPECT_EQ(nlohmann::json::parse(R"({"a": 1, "a": 2})").at("a"), 2);
}

TEST(Qwen3Coder, WhatIsNone) {
  for (const char* text : {"<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call><function=unknown></function>",
                           "<tool_call>", "<tool_call><function=f", "<function=f></function>"})
    EXPECT_EQ(qwen(text), "[" + std::string(text) + "]");
  for (const char* text : {"<tool_call><function=f>", "<tool_call><function=f>text</function>",
                           "<tool_call><function=f><parameter=a>1", "<tool_call><function=f></function>x"}) {
    const std::string got = qwen(text);
    EXPECT_TRUE(got.ends_with("<0 withdrawn>[" + std::string(text) + "]")) << got;
  }
}

}  // namespace
}  // namespace bumblebee::serve::testing
