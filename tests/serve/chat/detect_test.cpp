// Formats read off vocabularies and templates.
#include "serve/chat/detect.h"

#include <gtest/gtest.h>

#include <string>

#include "bumblebee/error.h"
#include "tests/serve/chat/model_directory.h"

namespace bumblebee::serve::testing {
namespace {

ToolFormat of_template(const std::string& name) { return detect_formats(tokenizer_with(template_of(name))).tools; }

TEST(Detect, TemplatesOfModelsDecide) {
  for (const char* name : {"Qwen-Qwen3-0.6B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-QwQ-32B"}) {
    EXPECT_EQ(of_template(name), ToolFormat::hermes) << name;
  }
  for (const char* name : {"mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506"}) {
    EXPECT_EQ(of_template(name), ToolFormat::mistral) << name;
  }
  for (const char* name : {"Qwen3-Coder", "Qwen3.5-4B"}) EXPECT_EQ(of_template(name), ToolFormat::qwen3_coder) << name;
  for (const char* name : {"google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"})
    EXPECT_EQ(of_template(name), ToolFormat::gemma4) << name;
  EXPECT_EQ(of_template("openai-gpt-oss-120b"), ToolFormat::harmony);
  for (const char* name : {"GLM-4.6", "GLM-4.7-Flash"}) EXPECT_EQ(of_template(name), ToolFormat::glm) << name;
  for (const char* name : {"deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"})
    EXPECT_EQ(of_template(name), ToolFormat::deepseek) << name;
  EXPECT_EQ(of_template("ByteDance-Seed-OSS"), ToolFormat::seed_oss);
  EXPECT_EQ(of_template("ibm-granite-granite-3.3-2B-Instruct"), ToolFormat::granite);
  for (const char* name : {"ibm-granite-granite-4.0", "ibm-granite-granite-4.1"})
    EXPECT_EQ(of_template(name), ToolFormat::hermes) << name;
  // As Phi-4-mini's has the tools of a message; it does not write calls.
  EXPECT_EQ(detect_formats(tokenizer_with("{{ '<|tool|>' + messages[0].tools + '<|/tool|>' }}")).tools,
            ToolFormat::phi4);
  // One that shows the call as well, and one that asks for the other form.
  for (const char* shown : {"<|tool|>[]<|/tool|><|tool_call|>[]<|/tool_call|>", "<|tool_call|> functools[{}]"})
    EXPECT_EQ(detect_formats(tokenizer_with(shown)).tools, ToolFormat::phi4) << shown;
  // Forms of their own, which are not read: their calls stay text rather than half of them becoming calls.
  for (const char* name :
       {"MiniMax-M2", "Apertus-8B-Instruct", "microsoft-Phi-3.5-mini-instruct", "HuggingFaceTB-SmolLM3-3B"}) {
    EXPECT_EQ(of_template(name), ToolFormat::none) << name;
  }
  const std::string llama = "{% if tools %}Environment: ipython{% endif %}{{ '{\"name\": \"x\", \"parameters\": ' }}";
  EXPECT_EQ(detect_formats(tokenizer_with(llama)).tools, ToolFormat::llama);
}

TEST(Detect, ThoughtsOfModels) {
  for (const char* name : {"Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "GLM-4.6",
                           "HuggingFaceTB-SmolLM3-3B", "ByteDance-Seed-OSS", "Apertus-8B-Instruct"}) {
    EXPECT_TRUE(detect_formats(tokenizer_with(template_of(name))).reasoning) << name;
  }
  for (const char* name : {"Qwen-Qwen2.5-7B-Instruct", "microsoft-Phi-3.5-mini-instruct",
                           "mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506"}) {
    EXPECT_FALSE(detect_formats(tokenizer_with(template_of(name))).reasoning) << name;
  }
}

TEST(Detect, TheVocabularyDecidesWhereTheTemplateIsSilent) {
  const auto formats = [](const char* mark, bool special, const std::string& source = "{{ messages }}") {
    return detect_formats(tokenizer_with(source, {{mark, special}}));
  };
  EXPECT_EQ(formats("<tool_call>", false).tools, ToolFormat::hermes);
  EXPECT_FALSE(formats("<tool_call>", false).special_tool_marks);
  EXPECT_EQ(formats("[TOOL_CALLS]", true).tools, ToolFormat::mistral);
  EXPECT_TRUE(formats("[TOOL_CALLS]", true).special_tool_marks);
  EXPECT_EQ(formats("<|python_tag|>", true).tools, ToolFormat::llama);
  EXPECT_EQ(formats("<|python_tag|>", true).tools_why, "the vocabulary has <|python_tag|>");
  EXPECT_EQ(formats("<|other|>", true).tools, ToolFormat::none);
  EXPECT_EQ(formats("<tool_call>", false, "").tools, ToolFormat::hermes);
  // Hermes models stand on vocabularies of others.
  EXPECT_EQ(formats("<|python_tag|>", true, "{{ '<tool_call>' }}").tools, ToolFormat::hermes);
  EXPECT_FALSE(formats("<|python_tag|>", true, "{{ '<tool_call>' }}").special_tool_marks);

  EXPECT_TRUE(formats("<think>", false).reasoning);
  EXPECT_FALSE(formats("<think>", false).special_thought_marks);
  EXPECT_TRUE(formats("[THINK]", true).reasoning);
  EXPECT_TRUE(formats("[THINK]", true).special_thought_marks);
}

/// The text of an answer has them as <think> already: nothing of it is a control token any more.
TEST(Detect, ThoughtsInChannels) {
  for (const auto& [open, other] : {std::pair("<|channel|>", "<|message|>"), std::pair("<|channel>", "<channel|>")}) {
    const ModelFormats formats = detect_formats(tokenizer_with("", {{open, true}, {other, true}, {"<|start|>", true}}));
    EXPECT_TRUE(formats.reasoning) << open;
    EXPECT_TRUE(formats.channels) << open;
    EXPECT_EQ(formats.reasoning_why, std::string("the vocabulary has ") + open);
    EXPECT_FALSE(formats.special_thought_marks);
    EXPECT_FALSE(detect_formats(tokenizer_with("", {{open, true}})).reasoning) << open;
    EXPECT_FALSE(detect_formats(tokenizer_with("", {{open, false}, {other, false}})).reasoning) << open;
  }
}

TEST(Detect, CallsOfQwenBetweenControlTokens) {
  const char* const source = "{{ '<tool_call><function=f><parameter=a>' }}";
  EXPECT_TRUE(detect_formats(tokenizer_with(source, {{"<tool_call>", true}})).special_tool_marks);
  EXPECT_FALSE(detect_formats(tokenizer_with(source, {{"<tool_call>", false}})).special_tool_marks);
}

TEST(Detect, WhetherATemplateTakesAThoughtBesideContent) {
  const std::string refuses =
      "{% for m in messages %}{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('both') }}{% endif "
      "%}"
      "{{ m.content }}{% endfor %}";
  EXPECT_FALSE(takes_thought_beside_content(tokenizer_with(refuses)));
  EXPECT_TRUE(takes_thought_beside_content(tokenizer_with("{% for m in messages %}{{ m.content }}{% endfor %}")));
  EXPECT_TRUE(takes_thought_beside_content(tokenizer_with("{{ raise_exception('never') }}")));
}

TEST(Detect, WhetherATemplateTakesNullForContent) {
  EXPECT_FALSE(takes_null_content(tokenizer_with("{% for m in messages %}{{ m.role + m.content }}{% endfor %}")));
  EXPECT_FALSE(takes_null_content(tokenizer_with(template_of("Qwen-Qwen3-0.6B")))) << "it looks for </think> in it";
  // These do not fail: they write null as a word.
  EXPECT_FALSE(takes_null_content(tokenizer_with("{% for m in messages %}{{ m.content }}{% endfor %}")));
  EXPECT_FALSE(takes_null_content(tokenizer_with("{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}")));
  EXPECT_TRUE(takes_null_content(
      tokenizer_with("None{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% endfor %}")));
}

TEST(Detect, TheOperatorOverrides) {
  const Tokenizer tokenizer = tokenizer_with(template_of("Qwen-Qwen3-0.6B"), {{"[TOOL_CALLS]", true}});
  EXPECT_EQ(detect_formats(tokenizer, "none", "none").tools, ToolFormat::none);
  EXPECT_FALSE(detect_formats(tokenizer, "none", "none").reasoning);
  EXPECT_EQ(detect_formats(tokenizer, "llama").tools, ToolFormat::llama);
  EXPECT_TRUE(detect_formats(tokenizer, "mistral").special_tool_marks);
  EXPECT_EQ(detect_formats(tokenizer, "mistral").tools_why, "--tool-parser says so");
  EXPECT_TRUE(detect_formats(tokenizer_with(""), "auto", "think").reasoning);
  for (const char* word : {"", "Hermes", "qwen", "auto "}) {
    EXPECT_THROW(detect_formats(tokenizer, word), Error) << word;
    EXPECT_THROW(detect_formats(tokenizer, "auto", word), Error) << word;
  }
}

}  // namespace
}  // namespace bumblebee::serve::testing
