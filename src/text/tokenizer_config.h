// The sidecar files of a tokenizer: which tokens begin, end and pad a text, and the chat templates of the directory.
// Reads tokenizer_config.json, special_tokens_map.json, chat_template.jinja, chat_template.json and
// additional_chat_templates/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bumblebee::txt {

/// One entry of `added_tokens_decoder`: transformers gives these precedence over tokenizer.json.
struct DeclaredToken {
  int32_t id = 0;
  std::string text;
  bool special = false, single_word = false, lstrip = false, rstrip = false, normalized = true;
};

struct TokenizerConfig {
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> pad_token;
  std::optional<std::string> unk_token;
  /// Every named special token as templates see it (`bos_token`, `image_token`, ...), in file order.
  std::vector<std::pair<std::string, std::string>> named_tokens;
  std::vector<std::string> additional_special_tokens;
  std::vector<DeclaredToken> declared_tokens;
  /// {name, source}; the unnamed one is called "default". Already merged in transformers' order of precedence.
  std::vector<std::pair<std::string, std::string>> chat_templates;
  std::string tokenizer_class;
  /// Whether a text gets them at its ends, where the file says so.
  std::optional<bool> add_bos_token, add_eos_token;
  std::optional<bool> add_prefix_space;

  /// Missing files leave fields empty; a file that is there and broken throws Error(bad_file | bad_config).
  static TokenizerConfig load(const std::filesystem::path& directory);
  static TokenizerConfig from_json(std::string_view tokenizer_config, std::string_view special_tokens_map = {},
                                   std::string_view where = "tokenizer_config.json");
};

}  // namespace bumblebee::txt
