// A directory that a tokenizer is loaded from: a small vocabulary with marks of one's own, and a chat template.
#pragma once

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bumblebee/repository.h"
#include "bumblebee/tokenizer.h"
#include "tests/text/small_tokenizer.h"

namespace bumblebee::serve::testing {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::string template_of(const std::string& name) {
  return read_file(std::filesystem::path(BB_TEST_DATA) / "text/templates" / (name + ".jinja"));
}

/// `marks`: more tokens, and whether each is special.
inline Tokenizer tokenizer_with(const std::string& chat_template,
                                const std::vector<std::pair<std::string, bool>>& marks = {}) {
  Json json = bumblebee::testing::small_tokenizer_json();
  Json& added = json["added_tokens"];
  // The small vocabulary's own <think> would be found everywhere.
  added.erase(added.begin() + 4, added.end());
  for (const auto& [text, special] : marks) {
    Json token = added[0];
    token["id"] = 259 + int(added.size());
    token["content"] = text;
    token["special"] = special;
    added.push_back(token);
  }
  static int counter = 0;
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() /
      ("bumblebee-chat-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "tokenizer.json") << json.dump();
  Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  std::ofstream(directory / "tokenizer_config.json") << config.dump();
  const Tokenizer tokenizer = load_tokenizer(local(directory));
  std::filesystem::remove_all(directory);
  return tokenizer;
}

}  // namespace bumblebee::serve::testing
