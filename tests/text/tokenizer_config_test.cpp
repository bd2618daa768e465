// The sidecar files: which token is which, and which chat template wins.
#include "text/tokenizer_config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"

namespace bumblebee::txt {
namespace {

class ConfigDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 (std::string("bb_config_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  std::string templates() {
    std::string all;
    for (const auto& [name, source] : TokenizerConfig::load(directory_).chat_templates)
      all += name + "=" + source + ";";
    return all;
  }
  std::filesystem::path directory_;
};

TEST_F(ConfigDirectory, EmptyDirectoryIsEmptyConfig) {
  const TokenizerConfig config = TokenizerConfig::load(directory_);
  EXPECT_TRUE(config.chat_templates.empty());
  EXPECT_EQ(config.bos_token, std::nullopt);
}

TEST_F(ConfigDirectory, TokensFromBothFiles) {
  write("special_tokens_map.json",
        R"({"bos_token": "<old>", "eos_token": {"content": "<e>", "lstrip": false}, "unk_token": "<u>"})");
  write("tokenizer_config.json",
        R"({"bos_token": "<b>", "pad_token": null, "add_bos_token": true, "image_token": "<i>", "tokenizer_class": "X",
            "additional_special_tokens": ["<x>", {"content": "<y>"}], "extra_special_tokens": {"audio_token": "<a>"}})");
  TokenizerConfig config = TokenizerConfig::load(directory_);
  EXPECT_EQ(config.bos_token, "<old>") << "before added_tokens_decoder, transformers lets the map win";
  write("tokenizer_config.json",
        R"({"bos_token": "<b>", "pad_token": null, "add_bos_token": true, "image_token": "<i>", "tokenizer_class": "X",
            "added_tokens_decoder": {}, "model_specific_special_tokens": {"video_token": "<v>"},
            "additional_special_tokens": ["<x>", {"content": "<y>"}], "extra_special_tokens": {"audio_token": "<a>"}})");
  config = TokenizerConfig::load(directory_);
  EXPECT_EQ(config.bos_token, "<b>");
  EXPECT_EQ(config.eos_token, "<e>");
  EXPECT_EQ(config.unk_token, "<u>");
  EXPECT_EQ(config.pad_token, std::nullopt);
  EXPECT_EQ(config.additional_special_tokens, (std::vector<std::string>{"<x>", "<y>"}));
  EXPECT_EQ(config.tokenizer_class, "X");
  size_t images = 0;
  for (const auto& [name, text] : config.named_tokens)
    images += (name == "image_token" && text == "<i>") || (name == "audio_token" && text == "<a>") ||
              (name == "video_token" && text == "<v>");
  EXPECT_EQ(images, 3u);
}

TEST_F(ConfigDirectory, JinjaFileReplacesTheConfigs) {
  write("tokenizer_config.json", R"({"chat_template": {"default": "A", "rag": "R"}})");
  EXPECT_EQ(templates(), "default=A;rag=R;");
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]})");
  EXPECT_EQ(templates(), "default=A;tool_use=B;");
  write("chat_template.json", R"({"chat_template": "legacy"})");
  EXPECT_EQ(templates(), "default=legacy;tool_use=B;");
  write("chat_template.jinja", "C");
  EXPECT_EQ(templates(), "default=C;");
  write("additional_chat_templates/tool_use.jinja", "D");
  write("additional_chat_templates/readme.txt", "no");
  EXPECT_EQ(templates(), "default=C;tool_use=D;");
}

TEST_F(ConfigDirectory, BrokenFilesAreNamed) {
  for (const char* text :
       {"", "{", "[]", "null", R"({"chat_template": 3})", R"({"chat_template": [{"name": "x"}]})",
        R"({"added_tokens_decoder": []})", R"({"added_tokens_decoder": {"-1": {"content": "x"}}})",
        R"({"added_tokens_decoder": {"99999999999": {"content": "x"}}})", R"({"added_tokens_decoder": {"1": {}}})"}) {
    write("tokenizer_config.json", text);
    if (std::string_view(text).empty()) continue;  // an empty file says nothing
    try {
      TokenizerConfig::load(directory_);
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("tokenizer_config.json"), std::string::npos) << error.what();
    }
  }
}

TEST_F(ConfigDirectory, DirectoryInPlaceOfAFileIsNamed) {
  std::filesystem::create_directories(directory_ / "chat_template.jinja");
  EXPECT_THROW(TokenizerConfig::load(directory_), Error);
}

}  // namespace
}  // namespace bumblebee::txt
