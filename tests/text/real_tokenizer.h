// The fetched tokenizers, each loaded once for all tests of a program.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "text/tokenizer.h"

namespace bumblebee::testing {

inline const txt::Tokenizer& real_tokenizer(const std::string& name) {
  static std::map<std::string, txt::Tokenizer> loaded;
  const auto known = loaded.find(name);
  if (known != loaded.end()) return known->second;
  return loaded.emplace(name, txt::Tokenizer::load(std::filesystem::path(BB_TEST_TOKENIZERS) / name)).first->second;
}

}  // namespace bumblebee::testing
