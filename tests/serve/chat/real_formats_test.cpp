// Formats of the fetched tokenizers.
#include <gtest/gtest.h>

#include <filesystem>

#include "bumblebee/repository.h"
#include "serve/chat/detect.h"

namespace bumblebee::serve {
namespace {

ModelFormats of(const char* name) {
  return detect_formats(load_tokenizer(local(std::filesystem::path(BB_TEST_TOKENIZERS) / name)));
}

TEST(RealFormats, Qwen3) {
  const ModelFormats formats = of("qwen3");
  EXPECT_EQ(formats.tools, ToolFormat::hermes);
  EXPECT_EQ(formats.tools_why, "the template has <tool_call>");
  EXPECT_FALSE(formats.special_tool_marks);
  EXPECT_TRUE(formats.reasoning);
  EXPECT_FALSE(formats.special_thought_marks);
}

/// As its package has it: Llama 3's vocabulary and template, without <|python_tag|> and without tools.
TEST(RealFormats, Llama3) {
  const ModelFormats formats = of("llama3_1");
  EXPECT_EQ(formats.tools, ToolFormat::none);
  EXPECT_FALSE(formats.special_tool_marks);
  EXPECT_FALSE(formats.reasoning);
}

TEST(RealFormats, ThoughtsInChannels) {
  for (const char* name : {"gemma4", "gpt_oss"}) {
    const ModelFormats formats = of(name);
    EXPECT_TRUE(formats.reasoning) << name;
    EXPECT_FALSE(formats.special_thought_marks) << name << ": the text of an answer has <think> in their place";
    EXPECT_FALSE(formats.special_tool_marks) << name;
  }
  EXPECT_EQ(of("gemma4").tools, ToolFormat::gemma4);
}

TEST(RealFormats, ModelsWithout) {
  for (const char* name : {"gemma3", "smollm2"}) {
    EXPECT_EQ(of(name).tools, ToolFormat::none) << name;
    EXPECT_FALSE(of(name).reasoning) << name;
  }
}

}  // namespace
}  // namespace bumblebee::serve
