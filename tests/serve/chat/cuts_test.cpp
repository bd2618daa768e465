// The law of the parsers: what comes out does not depend on how the text was cut, and nothing is lost. Held over
// answers that are put together at random from the parts that matter (BB_CUTS: how many), and over long ones that are
// hostile.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "serve/chat/answer_output.h"
#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

const std::vector<std::string>& parts() {
  static const std::vector<std::string> all = {
      "<tool_call>",
      "</tool_call>",
      "<|channel|>",
      "commentary to=functions.f",
      "<|message|>",
      "<|call|>",
      "<|tool_call>",
      "call:f",
      "<tool_call|>",
      "<|\"|>",
      "<|",
      "a:",
      "<seed:think>",
      "</seed:think>",
      "<seed:tool_call>",
      "</seed:tool_call>",
      "f<arg_key>a</arg_key>",
      "<arg_value>1</arg_value>\n",
      "</arg_v",
      "<｜tool▁calls▁begin｜>",
      "<｜tool▁call▁begin｜>f<｜tool▁sep｜>",
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n",
      "\n```<｜tool▁call▁end｜>",
      "<｜tool▁call▁end｜>",
      "<｜tool▁calls▁end｜>",
      "<|tool_call|>",
      "<|/tool_call|>",
      "functools[",
      "<function=f>",
      "</function>",
      "<parameter=a>",
      "</parameter>",
      "</par",
      "True",
      "<|channel|>commentary to=functions.f<|message|>{\"a\": [\"<|call|>\"]}<|call|>",
      "<|tool_call>call:get_weather{a:<|\"|>x\n\"y<|\"|>,b:[1,True,{c:none}],d:{}}<tool_call|>",
      "<tool_call>\n<function=f>\n<parameter=a>\n12\n</parameter>\n<parameter=c>[1]</parameter>\n</function>\n</"
      "tool_call>",
      "<tool_",
      "<think>",
      "</think>",
      "<thinking>",
      "[THINK]",
      "[/THINK]",
      "</thi",
      "[TOOL_CALLS]",
      "[ARGS]",
      "[CALL_ID]",
      "a1B2c3D4e",
      "<|python_tag|>",
      "<|py",
      "[",
      "]",
      "{",
      "}",
      ",",
      ";",
      ":",
      "\"",
      "\\",
      "\"name\"",
      "\"arguments\"",
      "\"parameters\"",
      "\"type\": \"function\", ",
      "\"f\"",
      "\"get_weather\"",
      "\"unknown\"",
      "f",
      "g",
      "{}",
      "{\"a\": 1}",
      "\"{\\\"a\\\": 1}\"",
      "\"\\ud83d\\ude00\"",
      "null",
      "12",
      "-0.5e3",
      " ",
      "\n",
      "Hello",
      "ä€😀",
      "<",
      "'",
      "{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call>\"}}",
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, {}]}}\n</tool_call>",
      "{\"name\": \"f\", \"parameters\": {\"x\": null}}",
      "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"arguments\": \"{}\", \"name\": \"get_weather\"}]",
      "[TOOL_CALLS]search-web[CALL_ID]abcdefghi[ARGS]{\"q\": \"[TOOL_CALLS]\"}"};
  return all;
}

void check(const AnswerFormat& format, const std::string& text, std::mt19937& random) {
  const TakenApart whole = take_apart(format, text);
  const size_t longest = 1 + random() % 9;
  const TakenApart cut = take_apart(format, text, [&] { return 1 + random() % longest; });
  ASSERT_EQ(cut.events, whole.events) << text << "\n" << line(cut.events) << "\n" << line(whole.events);
  ASSERT_EQ(cut.calls, whole.calls) << text;
  const TakenApart bytes = take_apart(format, text, [] { return size_t{1}; });
  ASSERT_EQ(bytes.events, whole.events) << text;

  const Collected all = collected(whole.events);
  ASSERT_EQ(int(all.calls.size()), whole.calls) << text;
  ASSERT_EQ(whole.enough, !format.parallel_tool_calls && whole.calls > 0);
  if (whole.enough) {
    ASSERT_EQ(whole.calls, 1) << text;
  }
  for (const Collected::Call& call : all.calls) {
    ASSERT_NE(std::find(format.tool_names.begin(), format.tool_names.end(), call.name), format.tool_names.end());
    ASSERT_TRUE(nlohmann::json::accept(call.arguments) && call.arguments.find('{') != std::string::npos)
        << text << "\n"
        << call.arguments;
  }
  if (whole.calls == 0 && !format.reasoning) {
    std::string shown = text;
    if (format.certain_marks) std::erase(shown, kMarkByte);
    ASSERT_EQ(all.content, shown);
  }
}

TEST(Cuts, DoNotMatter) {
  std::mt19937 random(11), marks(12);
  int with_calls = 0;
  const char* const rounds = std::getenv("BB_CUTS");
  const int last = rounds ? std::atoi(rounds) : 5'000;
  for (int round = 0; round < last; ++round) {
    AnswerFormat format = format_of(ToolFormat(random() % 12), random() % 2 == 0);
    format.in_thought = random() % 4 == 0;
    format.parallel_tool_calls = random() % 4 != 0;
    std::string text;
    for (int i = int(random() % 12); i >= 0; --i) text += parts()[random() % parts().size()];
    ASSERT_NO_FATAL_FAILURE(check(format, text, random));
    with_calls += take_apart(format, text).calls > 0;
    format.certain_marks = true;
    std::string marked;
    for (const char c : text) {
      if (c == '<' && marks() % 8 != 0) marked += kMarkByte;
      marked += c;
    }
    ASSERT_NO_FATAL_FAILURE(check(format, marked, marks));
  }
  EXPECT_GT(with_calls, last / 40);
}

// A valid answer with one byte changed, left out or doubled, at each of its places.
TEST(Cuts, OneByteChanged) {
  std::mt19937 random(5);
  for (const auto& [tools, text] : std::vector<std::pair<ToolFormat, std::string>>{
           {ToolFormat::hermes,
            "<think>\nhm\n</think>\n\nI see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": "
            "\"{<\\\"\"}}\n</tool_call>\n"
            "<tool_call>\n{\"arguments\": \"{\\\"a\\\":\\u0020[]}\", \"name\": \"f\"}\n</tool_call>"},
           {ToolFormat::llama,
            "{\"name\": \"f\", \"parameters\": {\"x\": 1e5}}; {\"name\": \"f\", \"parameters\": {}}"},
           {ToolFormat::mistral, "Ok[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"f\"}]"},
           {ToolFormat::mistral, "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{\"a\": [true]}[TOOL_CALLS]f[ARGS]{}"},
           {ToolFormat::harmony, "Ok<|channel|>commentary to=functions.f<|message|>{\"a\": [\"<|call|>\"]}<|call|>"},
           {ToolFormat::harmony,
            "\xFF<think>\na</think>\n\xFF</think>\n\nOk\n\xFF<think>\nb\n\xFF</think>\n\n"
            "\xFF<|channel|>commentary to=functions.f\xFF<|message|>{\"a\": [\"<|call|>\"]}\xFF<|call|>"},
           {ToolFormat::gemma4, "Ok\xFF<|tool_call>call:f{a:\xFF<|\"|>x<|\"|>y\xFF<|\"|>,b:[1]}\xFF<tool_call|>"},
           {ToolFormat::gemma4,
            "Ok<|tool_call>call:f{a:<|\"|>x<\"|y<|\"|>,b:[1,{c:true}],d:{}}<tool_call|><|tool_call>call:f{}<tool_call|"
            ">"},
           {ToolFormat::qwen3_coder,
            "Ok\n<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=b>x</p</parameter>\n"
            "</function>\n</tool_call>\n<tool_call><function=f></function></tool_call>"}}) {
    const auto format = [tools = tools, certain = text.find(kMarkByte) != std::string::npos](bool reasoning = false) {
      AnswerFormat made = format_of(tools, reasoning);
      made.certain_marks = certain;
      return made;
    };
    for (size_t at = 0; at < text.size(); ++at) {
      for (const char byte : std::string_view("{]<\",\\ x")) {
        std::string changed = text;
        changed[at] = byte;
        ASSERT_NO_FATAL_FAILURE(check(format(true), changed, random));
        changed = text;
        changed.insert(at, 1, byte);
        ASSERT_NO_FATAL_FAILURE(check(format(), changed, random));
      }
      ASSERT_NO_FATAL_FAILURE(check(format(), text.substr(0, at), random));
      ASSERT_NO_FATAL_FAILURE(check(format(true), text.substr(at), random));
    }
  }
}

// Whole characters in, whole characters out: an event is JSON text at once.
TEST(Cuts, EventsHoldWholeCharacters) {
  std::mt19937 random(8);
  const std::vector<std::string> characters = {"ä", "€", "😀", "a", "\"", "{", "<", "[", "\\", " "};
  for (int round = 0; round < 2'000; ++round) {
    const auto parser = make_answer_parser(format_of(ToolFormat(random() % 7), random() % 2 == 0));
    std::vector<AnswerEvent> events;
    for (int i = 0; i < 8; ++i) {
      parser->push(random() % 2 ? parts()[random() % parts().size()] : characters[random() % characters.size()],
                   events);
      for (const AnswerEvent& event : events) EXPECT_NO_THROW(nlohmann::json(event.text).dump());
      events.clear();
    }
  }
}

TEST(Limits, AnEndlessCallIsGivenBack) {
  for (const auto& [tools, begin] : std::vector<std::pair<ToolFormat, std::string>>{
           {ToolFormat::hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\""},
           {ToolFormat::hermes, "<tool_call>{\"arguments\":{\"a\":\""},
           {ToolFormat::hermes, "<tool_call>{\"name\":\""},
           {ToolFormat::llama, "{\"name\":\"f\",\"parameters\":{\"a\":\""},
           {ToolFormat::mistral, "[TOOL_CALLS]f[ARGS]{\"a\":\""},
           {ToolFormat::harmony, "<|channel|>commentary to=functions.f<|message|>{\"a\":\""},
           {ToolFormat::gemma4, "<|tool_call>call:f{a:<|\"|>"},
           {ToolFormat::gemma4, "<|tool_call>call:f{a:"},
           {ToolFormat::qwen3_coder, "<tool_call><function=f><parameter=a>"},
           {ToolFormat::seed_oss, "<seed:tool_call><function=f><parameter=a>"},
           {ToolFormat::glm, "<tool_call>f<arg_key>a</arg_key><arg_value>"},
           {ToolFormat::deepseek, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\":\""},
           {ToolFormat::granite, "<|tool_call|>[{\"name\":\"f\",\"arguments\":{\"a\":\""},
           {ToolFormat::phi4, "functools[{\"name\":\"f\",\"arguments\":{\"a\":\""}}) {
    const auto parser = make_answer_parser(format_of(tools));
    std::vector<AnswerEvent> events;
    const std::string text = begin + std::string(kLongestCall - begin.size(), 'x');
    parser->push(text, events);
    EXPECT_TRUE(collected(events).content.empty());
    parser->push("x and more ", events);
    EXPECT_TRUE(collected(events).content == text + "x and more");
    parser->finish(events);
    EXPECT_TRUE(collected(events).content == text + "x and more ");
    EXPECT_TRUE(collected(events).calls.empty());
    EXPECT_EQ(parser->calls(), 0);
  }
}

TEST(Limits, ACallOfNearlyTheLimitIsOne) {
  const std::string begin = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":\"", end = "\"}}</tool_call>";
  const std::string text = begin + std::string(kLongestCall - begin.size() - end.size(), 'x') + end;
  EXPECT_EQ(take_apart(format_of(ToolFormat::hermes), text).calls, 1);
}

TEST(Limits, BlanksAreHeldToALimit) {
  for (const ToolFormat tools : {ToolFormat::none, ToolFormat::hermes}) {
    const auto parser = make_answer_parser(format_of(tools, true));
    std::vector<AnswerEvent> events;
    const std::string blanks(3 * kLongestBlank, '\n');
    parser->push(blanks, events);
    EXPECT_GE(collected(events).content.size(), kLongestBlank);
    parser->finish(events);
    EXPECT_TRUE(collected(events).content == blanks);
  }
  EXPECT_EQ(line({.reasoning = true}, "<think>a" + std::string(kLongestBlank + 5, ' ') + "b").size(),
            kLongestBlank + 5 + 4);
}

// What would take forever if anything were read twice: megabytes of beginnings. Where every access is checked, an
// eighth of them, which is within the limit of a call.
TEST(Limits, HostileTextTakesLinearTime) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr size_t kSize = kLongestCall / 8;
#else
  constexpr size_t kSize = kLongestCall + kLongestCall / 8;
#endif
  for (const char* part : {"<tool_call>",
                           "<tool_call>{\"name\":",
                           "<tool_call>{\"a\":[",
                           "[TOOL_CALLS][",
                           "[TOOL_CALLS]f[ARGS]{",
                           "{\"type\":",
                           "<|python_tag|>{",
                           "<|channel|>",
                           "<|channel|>commentary to=functions.f<|message|>{",
                           "<|tool_call>",
                           "<|tool_call>call:f{a:[",
                           "<tool_call><function=f><parameter=",
                           "</parameter",
                           "<think>",
                           "</think",
                           "[",
                           "{",
                           "\"",
                           " ",
                           "\\",
                           "<",
                           "</tool_call"}) {
    std::string text;
    while (text.size() < kSize) text += part;
    for (const ToolFormat tools : {ToolFormat::hermes, ToolFormat::llama, ToolFormat::mistral, ToolFormat::harmony,
                                   ToolFormat::gemma4, ToolFormat::qwen3_coder}) {
      const TakenApart apart = take_apart(format_of(tools), text, [] { return size_t{7}; });
      EXPECT_EQ(apart.calls, 0);
      EXPECT_TRUE(collected(apart.events).content == text) << part;
    }
    const TakenApart thought = take_apart({.reasoning = true}, "<think>" + text);
    EXPECT_LE(collected(thought.events).reasoning.size(), text.size());
  }
  std::string calls;
  int count = 0;
  for (; calls.size() < kSize; ++count) calls += "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}";
  EXPECT_EQ(take_apart(format_of(ToolFormat::mistral), calls).calls, count);
}

TEST(Ids, FollowFromTheSeed) {
  const std::string text = R"(<tool_call>{"name":"f"}</tool_call><tool_call>{"name":"f"}</tool_call>)";
  const auto ids = [&](std::optional<uint64_t> seed) {
    AnswerFormat format = format_of(ToolFormat::hermes);
    format.id_seed = seed;
    const Collected all = collected(take_apart(format, text).events);
    return std::pair(all.calls.at(0).id, all.calls.at(1).id);
  };
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1), ids(2));
  EXPECT_NE(ids(1).first, ids(1).second);
  EXPECT_NE(ids(std::nullopt), ids(std::nullopt));
}

}  // namespace
}  // namespace bumblebee::serve::testing
