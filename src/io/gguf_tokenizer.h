// The tokenizer of a GGUF file in the words of Hugging Face: tokenizer.json, tokenizer_config.json and the special ids.
// Only byte-level BPE with a pre-tokenizer whose rules are known exactly (smollm, gpt-2, qwen2, llama-bpe), and the
// pieces of Gemma, whose merges follow from their scores; anything else is refused by name.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <vector>

#include "base/json.h"
#include "io/gguf.h"

namespace bumblebee {

struct GgufTokenizer {
  OrderedJson tokenizer;         // tokenizer.json
  OrderedJson tokenizer_config;  // tokenizer_config.json, with the chat template
  std::optional<int64_t> bos, pad;
  std::vector<int64_t> eos;  // every id that ends a turn; the file's own first
};

/// `vocab` is the number of embedding rows. Throws Error(unsupported or bad_file) naming the metadata key.
GgufTokenizer read_gguf_tokenizer(const GgufFile& file, int64_t vocab);

}  // namespace bumblebee
