// Bodies as clients send them (tests/data/serve/clients): all are read, and nothing in them is unknown.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

std::map<std::string, std::string> bodies() {
  std::map<std::string, std::string> bodies;
  for (const auto& entry : std::filesystem::directory_iterator(BB_TEST_DATA "/serve/clients")) {
    std::ifstream file(entry.path(), std::ios::binary);
    bodies[entry.path().filename().string()] = {std::istreambuf_iterator<char>(file), {}};
  }
  return bodies;
}

RequestRules large_rules() {
  RequestRules large = rules();
  large.vocab_size = 151'936;
  return large;
}

ChatRequest chat_of(const std::string& name) { return read_chat_request(bodies().at(name), large_rules()); }

TEST(Clients, AllBodiesAreRead) {
  int chats = 0, completions = 0;
  for (const auto& [name, body] : bodies()) {
    SCOPED_TRACE(name);
    std::vector<std::string> ignored;
    if (name.ends_with(".completions.json")) {
      ignored = read_completion_request(body, large_rules()).ignored;
      ++completions;
    } else {
      ignored = read_chat_request(body, large_rules()).ignored;
      ++chats;
    }
    std::erase_if(ignored, [](const std::string& field) { return field.starts_with("tools["); });
    EXPECT_EQ(ignored, std::vector<std::string>());
  }
  EXPECT_EQ(chats, 11);
  EXPECT_EQ(completions, 5);
}

TEST(Clients, OpenAIsToolTurn) {
  const ChatRequest request = chat_of("openai_python_tools.json");
  ASSERT_EQ(request.input.messages.size(), 3u);
  EXPECT_EQ(
      request.input.messages[1].json,
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"call_abc","type":"function","function":{"name":"get_weather","arguments":{"location":"Paris"}}}]})");
  EXPECT_EQ(request.input.messages[2].json,
            R"({"role":"tool","content":"{\"temperature\": 21}","tool_call_id":"call_abc"})");
  EXPECT_EQ(request.tool_names, std::vector<std::string>{"get_weather"});
  EXPECT_EQ(request.input.chat.tools.find("strict"), std::string::npos);
}

TEST(Clients, LoadToolsGetAnswersOfOneLength) {
  const ChatRequest request = chat_of("guidellm_chat.json");
  EXPECT_TRUE(request.input.ignore_eos && request.shape.include_usage && request.shape.continuous_usage);
  EXPECT_EQ(request.input.config->max_new_tokens, 128);
}

TEST(Clients, AgentsToolsOfOtherTypesAreSkipped) {
  const ChatRequest request = chat_of("codex_like_tools.json");
  EXPECT_EQ(request.tool_names, std::vector<std::string>{"shell"});
  EXPECT_EQ(request.ignored, (std::vector<std::string>{"tools[1]", "tools[2]", "tools[3]"}));
}

}  // namespace
}  // namespace bumblebee::serve
