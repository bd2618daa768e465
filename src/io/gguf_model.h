// What a GGUF file says about its model, in the words of a Hugging Face checkpoint: config.json and, for every tensor,
// the name it has there. Architectures llama (Mistral too), qwen2, qwen3 and gemma3; keys and tensors that are not
// understood are refused.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "base/json.h"
#include "io/gguf.h"

namespace bumblebee {

/// One tensor's new name. `heads` is not 0 where llama.cpp's converter interleaved the two halves of each head's rows
/// (see source_row).
struct GgufTensorName {
  const GgufTensor* tensor = nullptr;
  std::string name;  // full name, ending in .weight or .bias
  int heads = 0;
  float added = 0;  // to every value, by llama.cpp's converter: to be taken off again
};

struct GgufModel {
  Json config;  // without quantization, ids of special tokens and dtype
  std::vector<GgufTensorName> tensors;
};

/// Throws Error(unsupported) for what is not understood, Error(bad_config or bad_file) for what is missing or
/// misshapen.
GgufModel read_gguf_model(const GgufFile& file);

/// The row of the file that holds row `row` of the checkpoint, of `rows` in `heads` heads. llama.cpp rotates pairs of
/// neighbours where Hugging Face rotates halves: row (h, half·D/2 + i) lies at (h, 2i + half).
inline uint64_t source_row(uint64_t row, uint64_t rows, int heads) {
  if (heads == 0) return row;
  const uint64_t size = rows / uint64_t(heads), head = row / size, within = row % size;
  return head * size + within % (size / 2) * 2 + within / (size / 2);
}

/// The double that prints like this float: 1e-05 rather than 9.999999747378752e-06.
double shortest_double(float value);

}  // namespace bumblebee
