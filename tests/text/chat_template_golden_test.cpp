// Real chat templates against jinja2 as transformers sets it up: byte for byte, over the conversations of
// tests/data/text. A directory of further templates can be given as BB_TEST_TEMPLATES (with rendered/ inside) to hold
// more of them against fresh goldens.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/json.h"
#include "text/chat_template.h"

namespace bumblebee::txt {
namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void compare_all(const std::filesystem::path& templates, const std::filesystem::path& rendered, size_t at_least) {
  const OrderedJson conversations = OrderedJson::parse(read(std::string(BB_TEST_DATA) + "/text/conversations.json"));
  std::vector<std::pair<std::string, std::string>> named;
  for (const auto& [name, text] : conversations["named_tokens"].items())
    named.emplace_back(name, text.get<std::string>());
  size_t compared = 0;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(templates)) {
    if (entry.path().extension() == ".jinja") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    SCOPED_TRACE(path.stem().string());
    const OrderedJson goldens = OrderedJson::parse(read(rendered / (path.stem().string() + ".json")));
    // A guard that is on must not change what ordinary chats look like, whatever the control tokens are called.
    for (const std::vector<std::string>& control :
         {std::vector<std::string>{}, {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<bos!>", "<eos!>"}}) {
      ChatTemplate chat = ChatTemplate::from_parts({{"default", read(path)}}, named, control);
      for (const OrderedJson& entry : conversations["cases"]) {
        const std::string name = entry["name"];
        const std::string messages = entry["messages"].dump();
        const std::string tools = entry.contains("tools") ? entry["tools"].dump() : "";
        const std::string kwargs = entry.contains("kwargs") ? entry["kwargs"].dump() : "";
        RenderRequest request{.messages_json = messages, .tools_json = tools, .kwargs_json = kwargs};
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
  }
  EXPECT_GE(compared, at_least);
}

TEST(ChatTemplateGoldens, CommittedTemplates) {
  const std::filesystem::path data = std::filesystem::path(BB_TEST_DATA) / "text";
  compare_all(data / "templates", data / "rendered", size_t{2} * 12 * 8);
}

#ifdef BB_TEST_TEMPLATES
TEST(ChatTemplateGoldens, FurtherTemplates) {
  const std::filesystem::path data = BB_TEST_TEMPLATES;
  compare_all(data, data / "rendered", 1);
}
#endif

}  // namespace
}  // namespace bumblebee::txt
