// A whole tokenizer in a few lines: byte-level BPE with three merges, four control tokens and two ordinary added ones.
// What is tested here is our own code; ids of real tokenizers are in tokenizer_golden_test.cpp.
#pragma once

#include <nlohmann/json.hpp>

#include <span>
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace bumblebee::testing {

inline std::string utf8_of(uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

/// GPT-2's printable stand-in for a byte.
inline std::string byte_symbol(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  if (printable(byte)) return utf8_of(static_cast<uint32_t>(byte));
  uint32_t next = 256;
  for (int b = 0; b < byte; ++b) next += printable(b) ? 0 : 1;
  return utf8_of(next);
}

inline Json small_tokenizer_json() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte)] = byte;
  vocab["he"] = 256;
  vocab["ll"] = 257;
  vocab["hell"] = 258;
  Json added = Json::array();
  int id = 259;
  for (const auto& [text, special] :
       {std::pair("<|im_start|>", true), std::pair("<|im_end|>", true), std::pair("<s>", true),
        std::pair("<|tool|>", true), std::pair("<think>", false), std::pair("</think>", false)}) {
    added.push_back({{"id", id++},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", {"h e", "l l", "he ll"}}}}};
}

inline txt::Tokenizer small_tokenizer(txt::TokenizerConfig config = {}) {
  return txt::Tokenizer::from_bytes(small_tokenizer_json().dump(), std::move(config), "small tokenizer");
}

/// With more added tokens, from id 300 on.
inline txt::Tokenizer small_tokenizer_with(std::span<const char* const> tokens, bool special = true) {
  Json json = small_tokenizer_json();
  int id = 300;
  for (const char* token : tokens) {
    json["added_tokens"].push_back({{"id", id++},
                                    {"content", token},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", special}});
  }
  return txt::Tokenizer::from_bytes(json.dump(), {}, "small_tokenizer");
}

}  // namespace bumblebee::testing
