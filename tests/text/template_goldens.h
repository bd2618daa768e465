// One chat template against what jinja2 makes of it, over the conversations of tests/data/text.
#pragma once

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/chat_template.h"

namespace bumblebee::testing {

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline OrderedJson conversations() {
  return OrderedJson::parse(read_text(std::string(BB_TEST_DATA) + "/text/conversations.json"));
}

/// How many renderings were compared. A guard that is on must not change what ordinary chats look like, whatever the
/// control tokens are called.
inline size_t compare_template(const std::string& source, const OrderedJson& goldens,
                               const OrderedJson& conversations) {
  std::vector<std::pair<std::string, std::string>> named;
  for (const auto& [name, text] : conversations["named_tokens"].items())
    named.emplace_back(name, text.get<std::string>());
  size_t compared = 0;
  for (const std::vector<std::string>& control :
       {std::vector<std::string>{}, {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<bos!>", "<eos!>"}}) {
    txt::ChatTemplate chat = txt::ChatTemplate::from_parts({{"default", source}}, named, control);
    for (const OrderedJson& entry : conversations["cases"]) {
      const std::string name = entry["name"];
      const std::string messages = entry["messages"].dump();
      const std::string tools = entry.contains("tools") ? entry["tools"].dump() : "";
      const std::string kwargs = entry.contains("kwargs") ? entry["kwargs"].dump() : "";
      txt::RenderRequest request{.messages_json = messages, .tools_json = tools, .kwargs_json = kwargs};
      request.add_generation_prompt = entry.value("add_generation_prompt", true);
      request.now = conversations["now"].get<double>();
      ++compared;
      const OrderedJson& golden = goldens.at(name);
      if (golden.is_string()) {
        try {
          EXPECT_EQ(chat.render(request).text, golden.get<std::string>()) << name;
        } catch (const Error& e) {
          ADD_FAILURE() << name << ": " << e.what();
        }
      } else {
        EXPECT_THROW(chat.render(request), Error) << name << ": jinja2 says " << golden["error"];
      }
    }
  }
  return compared;
}

}  // namespace bumblebee::testing
