// A conversation with calls, rendered by the templates that models are trained on, and the assistant's part of it
// parsed back: what a model writes that learned its form from the template.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "serve/chat/detect.h"
#include "tests/serve/chat/model_directory.h"
#include "tests/serve/chat/taken_apart.h"

namespace bumblebee::serve::testing {
namespace {

struct Form {
  std::string chat_template;
  std::string begin, end;  // of the assistant's part
  bool several = true, content = true, reasoning = false;
  std::vector<std::pair<std::string, bool>> marks;
};

/// In Llama 3's form: one call, no content beside it. Its own template is not free to be copied.
const char* const kLlama =
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{ call.arguments | tojson }}{{ '}' }}"
    "{% else %}{% if tools %}Environment: ipython\n{% endif %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}";

std::vector<Form> forms() {
  const std::string im = "<|im_start|>assistant\n", im_end = "<|im_end|>";
  return {{template_of("Qwen-Qwen3-0.6B"), im, im_end, true, true, true, {}},
          {template_of("Qwen-Qwen2.5-7B-Instruct"), im, im_end, true, true, false, {}},
          {template_of("Qwen-QwQ-32B"), im, im_end, true, true, false, {}},
          {template_of("mistralai-Mistral-Nemo-Instruct-2407"), "[/INST]", "</s>", true, false, false, {}},
          {template_of("Mistral-Small-3.2-24B-Instruct-2506"), "[/INST]", "</s>", true, false, false, {}},
          {template_of("Qwen3.5-4B"), im, im_end, true, true, true, {}},
          {template_of("google-gemma-4-31B-it"), "<|turn>model\n", "<|tool_response>", true, false, false, {}},
          {template_of("GLM-4.6"), "<|assistant|>", "", true, true, true, {}},
          {template_of("GLM-4.7-Flash"), "<|assistant|>", "", true, true, true, {}},
          {template_of("deepseek-ai-DeepSeek-V3.1"), "<think></think>", "<｜end▁of▁sentence｜>", true, true, false, {}},
          {template_of("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"),
           "Do it.<｜Assistant｜>",
           "<｜end▁of▁sentence｜>",
           true,
           false,
           false,
           {}},
          {kLlama, "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", false, false, false, {}}};
}

struct Call {
  std::string name;
  Json arguments;
};

std::vector<std::vector<Call>> conversations() {
  const Json hard = {{"text", "a \"quote\", \\ a </tool_call> and [TOOL_CALLS] and\nlines \t ä€😀 \x01"},
                     {"deep", {{"list", {1, -2.5, 1e300, nullptr, true, Json::array(), Json::object()}}}},
                     {"", "}"}};
  return {{{"f", Json::object()}},
          {{"f", hard}},
          {{"get_weather", {{"city", "Zürich"}, {"days", 3}}}},
          {{"f", {{"name", "f"}, {"arguments", {{"x", 1}}}}}, {"search-web", {{"q", "{}"}}}, {"f", hard}}};
}

Message user(const char* content) {
  Message message;
  message.role = "user";
  message.content = content;
  return message;
}

/// The assistant's part of the rendered conversation.
std::string assistant_part(const Form& form, const std::vector<Call>& calls, const std::string& content,
                           const std::string& reasoning) {
  OrderedJson message = {{"role", "assistant"}, {"content", content}};
  if (!reasoning.empty()) message["reasoning_content"] = reasoning;
  for (size_t i = 0; i < calls.size(); ++i) {
    message["tool_calls"].push_back({{"id", "abcdefgh" + std::to_string(i)},
                                     {"type", "function"},
                                     {"function", {{"name", calls[i].name}, {"arguments", calls[i].arguments}}}});
  }
  const Tokenizer tokenizer = tokenizer_with(form.chat_template, form.marks);
  std::vector<Message> messages(2);
  messages[0] = user("Do it.");
  messages[1].json = message.dump();
  ChatOptions options;
  options.add_generation_prompt = false;
  options.tools = R"([{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}])";
  const std::string text = tokenizer.apply_chat_template(messages, options).text;
  const size_t begin = text.rfind(form.begin);
  EXPECT_NE(begin, std::string::npos) << text;
  const size_t from = begin + form.begin.size(), end = form.end.empty() ? text.size() : text.find(form.end, from);
  EXPECT_NE(end, std::string::npos) << text;
  return text.substr(from, end - from);
}

TEST(RoundTrip, CallsOfEveryTemplate) {
  for (const Form& form : forms()) {
    const ModelFormats formats = detect_formats(tokenizer_with(form.chat_template, form.marks));
    ASSERT_NE(formats.tools, ToolFormat::none);
    for (const std::vector<Call>& calls : conversations()) {
      if (!form.several && calls.size() > 1) continue;
      const std::string content = form.content ? "I look." : "", reasoning = form.reasoning ? "Hm, hm." : "";
      const std::string part = assistant_part(form, calls, content, reasoning);
      AnswerFormat format = format_of(formats.tools, formats.reasoning);
      format.text_parameters = {{"search-web", {{"q", false}}}};  // "{}" is a text because its schema says so
      const TakenApart apart = take_apart(format, part, [] { return size_t{3}; });
      SCOPED_TRACE(part + "\n" + line(apart.events));
      const Collected all = collected(apart.events);
      EXPECT_EQ(all.content, content);
      EXPECT_EQ(all.reasoning, reasoning);
      ASSERT_EQ(all.calls.size(), calls.size());
      for (size_t i = 0; i < calls.size(); ++i) {
        EXPECT_EQ(all.calls[i].name, calls[i].name);
        EXPECT_EQ(Json::parse(all.calls[i].arguments), calls[i].arguments);
      }
    }
  }
}

TEST(RoundTrip, ThoughtsAndWhatPromptsOpen) {
  const auto prompt = [](const char* name, const char* kwargs) {
    const std::vector<Message> messages = {user("Hi, what is <think>?")};
    ChatOptions options;
    options.template_kwargs = kwargs;
    return tokenizer_with(template_of(name)).apply_chat_template(messages, options).text;
  };
  EXPECT_FALSE(opens_thought(prompt("Qwen-Qwen3-0.6B", "")));
  EXPECT_FALSE(opens_thought(prompt("Qwen-Qwen3-0.6B", R"({"enable_thinking": false})")));
  EXPECT_FALSE(opens_thought(prompt("Qwen-Qwen2.5-7B-Instruct", "")));
  for (const char* name : {"Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"}) {
    EXPECT_TRUE(opens_thought(prompt(name, R"({"enable_thinking": true})"))) << name;
    EXPECT_FALSE(opens_thought(prompt(name, R"({"enable_thinking": false})"))) << name;
  }
  EXPECT_FALSE(opens_thought(prompt("deepseek-ai-DeepSeek-V3.1", R"({"thinking": false})")));
  EXPECT_TRUE(opens_thought(prompt("deepseek-ai-DeepSeek-V3.1", R"({"thinking": true})")));
}

}  // namespace
}  // namespace bumblebee::serve::testing
