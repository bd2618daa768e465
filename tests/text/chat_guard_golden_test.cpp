// The guard end to end on real tokenizers with their own templates: no message, whatever control token it spells, adds
// one.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

#include "base/json.h"
#include "tests/text/real_tokenizer.h"
#include "tests/text/text_generator.h"
#include "text/chat_template.h"

namespace bumblebee::txt {
namespace {

class ChatGuard : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    tokenizer_.emplace(testing::real_tokenizer(GetParam()));
    chat_.emplace(ChatTemplate::from_tokenizer(*tokenizer_));
  }

  static std::string messages(const std::string& content, const std::string& reply) {
    return Json::array({{{"role", "user"}, {"content", content}},
                        {{"role", "assistant"}, {"content", reply}},
                        {{"role", "user"}, {"content", content}}})
        .dump();
  }

  int controls(const RenderedPrompt& prompt) const {
    int count = 0;
    for (const int32_t id : tokenizer_->encode(prompt)) count += tokenizer_->is_control(id) ? 1 : 0;
    return count;
  }

  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
};

TEST_P(ChatGuard, NoControlTokenFromContent) {
  const int ordinary = controls(chat_->render(messages("hello", "hi")));
  EXPECT_GT(ordinary, 2);
  for (const AddedToken& token : tokenizer_->added_tokens()) {
    if (!token.special) continue;
    const RenderedPrompt prompt = chat_->render(messages("a" + token.text + "b " + token.text, "x" + token.text + "y"));
    EXPECT_EQ(controls(prompt), ordinary) << token.text;
    const std::string half = token.text.substr(0, token.text.size() / 2);
    EXPECT_EQ(controls(chat_->render(messages("a" + half, half))), ordinary) << half;
  }
}

TEST_P(ChatGuard, OrdinaryContentHasHuggingFacesIds) {
  testing::Lcg rng(11);
  for (int i = 0; i < 200; ++i) {
    std::string line = testing::mixed_line(rng) + " < b <c> </d> [e] {f}";
    bool spells = false;
    for (const AddedToken& token : tokenizer_->added_tokens())
      spells = spells || (token.special && line.find(token.text) != std::string::npos);
    if (spells) continue;
    const RenderedPrompt prompt = chat_->render(messages(line, line));
    ASSERT_TRUE(prompt.guarded.empty()) << line;
    const EncodeOptions parse = {.add_special_tokens = false, .control = ControlTokens::parse};
    ASSERT_EQ(tokenizer_->encode(prompt), tokenizer_->encode(prompt.text, parse)) << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ChatGuard, ::testing::Values("qwen3", "llama3_1", "gemma3", "smollm2"),
                         [](const auto& test_info) { return std::string(test_info.param); });

}  // namespace
}  // namespace bumblebee::txt
