// Where templates have tools from, and prompts of those that have them in a message.
#include <gtest/gtest.h>

#include <string>

#include "serve/chat/detect.h"
#include "serve/openai/requests.h"
#include "tests/serve/chat/model_directory.h"

namespace bumblebee::serve::testing {
namespace {

/// In Phi-4-mini's form.
const char* const kInMessage =
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not "
    "none %}{{ '<|system|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|><|end|>' }}{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

TEST(ToolsPlace, IsWhatTheTemplateReads) {
  const auto place = [](const std::string& source) { return place_of_tools(tokenizer_with(source)); };
  for (const char* name : {"Qwen-Qwen3-0.6B", "GLM-4.6", "ByteDance-Seed-OSS", "ibm-granite-granite-3.3-2B-Instruct",
                           "mistralai-Mistral-Nemo-Instruct-2407"}) {
    EXPECT_EQ(place(template_of(name)), ToolsPlace::variable) << name;
  }
  for (const char* name : {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "microsoft-Phi-3.5-mini-instruct"})
    EXPECT_EQ(place(template_of(name)), ToolsPlace::nowhere) << name;
  EXPECT_EQ(place(kInMessage), ToolsPlace::message);
  EXPECT_EQ(place("{{ messages }}"), ToolsPlace::nowhere);
  EXPECT_EQ(place(""), ToolsPlace::variable) << "no template";
  EXPECT_EQ(place("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ tools }}"),
            ToolsPlace::variable);
}

std::string prompt_of(const std::string& messages, const std::string& more = "") {
  RequestRules rules;
  rules.context = 4096;
  rules.vocab_size = 1000;
  rules.tools_in_message = true;
  const TemplateRequest request = read_template_request(
      R"({"messages": )" + messages +
          R"(, "tools": [{"type": "function", "function": {"name": "f", "description": "a, \"b:c\"",
             "parameters": {"type": "object", "properties": {}}}}, {"type": "function", "function": {"name": "g"}}])" +
          more + "}",
      rules);
  EXPECT_EQ(request.chat.tools, "");
  return tokenizer_with(kInMessage).apply_chat_template(request.messages, request.chat).text;
}

TEST(ToolsPlace, PromptsWithToolsInTheSystemMessage) {
  const std::string tools =
      R"(<|tool|>[{"name": "f", "description": "a, \"b:c\"", "parameters": {"type": "object", "properties": {}}}, )"
      R"({"name": "g"}]<|/tool|><|end|>)";
  EXPECT_EQ(prompt_of(R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])"),
            "<|system|>Be brief." + tools + "<|user|>Hi<|end|><|assistant|>");
  EXPECT_EQ(prompt_of(R"([{"role": "user", "content": "Hi"}])"),
            "<|system|>" + tools + "<|user|>Hi<|end|><|assistant|>");
  EXPECT_EQ(prompt_of(R"([{"role": "system", "name": "x", "content": "Be brief."}])"),
            "<|system|>Be brief." + tools + "<|assistant|>");
  EXPECT_EQ(prompt_of(R"([{"role": "user", "content": "Hi"}])", R"(, "tool_choice": "none")"),
            "<|user|>Hi<|end|><|assistant|>");
}

}  // namespace
}  // namespace bumblebee::serve::testing
