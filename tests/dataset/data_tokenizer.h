// The tokenizer of the tests' tiny model, with <think> and </think> added as ordinary tokens, and templates for it.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bumblebee::testing {

inline txt::Tokenizer thinking_tokenizer() {
  const std::filesystem::path tiny = BB_TEST_DATA "/apps/tiny";
  Json json = parse_json(read_text_file(tiny / "tokenizer.json", 1 << 20), "tokenizer.json");
  int last = 0;
  for (const Json& token : json["added_tokens"]) last = std::max(last, token["id"].get<int>());
  for (const char* text : {"<think>", "</think>"}) {
    Json token = json["added_tokens"][0];
    token["id"] = ++last;
    token["content"] = text;
    token["special"] = false;
    json["added_tokens"].push_back(token);
  }
  return txt::Tokenizer::from_bytes(json.dump(), txt::TokenizerConfig::load(tiny));
}

/// "tiny" is the tiny model's own; others are names of tests/data/text/templates.
inline txt::ChatTemplate template_named(const std::string& name, const txt::Tokenizer& tokenizer) {
  if (name == "tiny") return txt::ChatTemplate::from_tokenizer(tokenizer);
  const std::string source = read_text_file(BB_TEST_DATA "/text/templates/" + name + ".jinja", 1 << 20);
  return txt::ChatTemplate::from_source(source, tokenizer);
}

}  // namespace bumblebee::testing
