// Calls as Mistral models write them.
#include <gtest/gtest.h>

#include <set>

#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

std::string mistral(std::string_view text) { return line(format_of(ToolFormat::mistral), text); }

TEST(Mistral, Arrays) {
  EXPECT_EQ(mistral(R"([TOOL_CALLS][{"name": "f", "arguments": {"a": [1]}}])"), R"(<0 f: {"a": [1]}>)");
  EXPECT_EQ(mistral(R"([TOOL_CALLS] [{"arguments": {}, "name": "f", "id": "abcdefghi"}, {"name": "f"}] )"),
            "<0 f: {}><1 f: {}>");
  EXPECT_EQ(mistral(R"(I look.[TOOL_CALLS][{"name":"f"}]Then)"), "[I look.]<0 f: {}>[Then]");
}

TEST(Mistral, AnArrayMayEndLateOrNever) {
  for (const char* end : {"", " ", "\n\n]", "]"}) {
    EXPECT_EQ(mistral(std::string(R"([TOOL_CALLS][{"name":"f","arguments":{"a":1}})") + end), R"(<0 f: {"a":1}>)");
  }
  EXPECT_EQ(mistral(R"([TOOL_CALLS][{"name":"f"},)"), "<0 f: {}>[,]");
  EXPECT_EQ(mistral(R"([TOOL_CALLS][{"name":"f"} and more)"), "<0 f: {}>[and more]");
  EXPECT_EQ(mistral(R"([TOOL_CALLS][{"name":"f"}, {"name":"g"}])"), R"(<0 f: {}>[, {"name":"g"}]])");
}

TEST(Mistral, NamesAndArguments) {
  EXPECT_EQ(mistral(R"([TOOL_CALLS]f[ARGS]{"a": "]"})"), R"(<0 f: {"a": "]"}>)");
  EXPECT_EQ(mistral(R"([TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]search-web[ARGS]{"q": 1})"),
            R"(<0 f: {}><1 search-web: {"q": 1}>)");
  EXPECT_EQ(mistral(R"([TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}!)"), R"(<0 f: {"a": 1}>[!])");
  EXPECT_EQ(mistral(R"([TOOL_CALLS]f {"a": 1})"), R"(<0 f: {"a": 1}>)");
  EXPECT_EQ(mistral("[TOOL_CALLS] f[ARGS]\n{}"), "<0 f: {}>");
}

TEST(Mistral, WhatIsNoCallIsContentAsItWasWritten) {
  for (const char* text : {
           "[TOOL_CALLS]",
           "[TOOL_CALLS][]",
           "[TOOL_CALLS][[]]",
           "[TOOL_CALLS]f",
           "[TOOL_CALLS]f[ARGS]",
           "[TOOL_CALLS]f[ARGS][1]",
           "[TOOL_CALLS]g[ARGS]{}",
           "[TOOL_CALLS]f[ARGS]{\"a\":",
           "[TOOL_CALLS]f[ARG]{}",
           "[TOOL_CALLS]f[CALL_ID][ARGS]{}",
           "[TOOL_CALLS]f[CALL_ID]abc[CALL_ID]abc[ARGS]{}",
           "[TOOL_CALLS]f]",
           "[TOOL_CALLS]{}",
           "[TOOL_CALL[",
           "[ARGS]{}",
           "[TOOL_CALLS]f[CALL_ID]abc {}",
           R"([TOOL_CALLS][{"name":"g"}, {"name":"f"}])",
           R"([TOOL_CALLS]{"name":"f"})",
       }) {
    const TakenApart apart = take_apart(format_of(ToolFormat::mistral), text);
    EXPECT_EQ(apart.calls, 0) << text;
    EXPECT_EQ(collected(apart.events).content, text);
  }
}

TEST(Mistral, IdsAreNineLettersAndDigits) {
  std::set<std::string> ids;
  std::string text;
  for (int i = 0; i < 100; ++i) text += "[TOOL_CALLS]f[ARGS]{}";
  for (const auto& call : collected(take_apart(format_of(ToolFormat::mistral), text).events).calls) {
    EXPECT_EQ(call.id.size(), 9u);
    EXPECT_EQ(call.id.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
              std::string::npos);
    ids.insert(call.id);
  }
  EXPECT_EQ(ids.size(), 100u);
}

TEST(Mistral, AnIdOfTheModelIsKeptWhereItIsOne) {
  const auto ids = [](std::string_view text) {
    std::vector<std::string> out;
    for (const auto& call : collected(take_apart(format_of(ToolFormat::mistral), text).events).calls)
      out.push_back(call.id);
    return out;
  };
  EXPECT_EQ(ids("[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}"), std::vector<std::string>{"a1B2c3D4e"});
  EXPECT_NE(ids("[TOOL_CALLS]f[CALL_ID]a1B2c3D4[ARGS]{}"), std::vector<std::string>{"a1B2c3D4"});
  EXPECT_NE(ids("[TOOL_CALLS]f[CALL_ID]a1B2c3D-4[ARGS]{}"), std::vector<std::string>{"a1B2c3D-4"});
  const auto twice = ids("[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}");
  ASSERT_EQ(twice.size(), 2u);
  EXPECT_NE(twice[0], twice[1]);
}

}  // namespace
}  // namespace bumblebee::serve::testing
