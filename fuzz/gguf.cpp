// Any bytes as a GGUF file: parsed, its metadata read, its tensors decoded, its model and tokenizer understood or
// refused.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "io/gguf.h"
#include "io/gguf_model.h"
#include "io/gguf_tokenizer.h"

namespace {

using namespace bumblebee;

template <class F>
void refusable(F&& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  refusable([&] {
    const auto file = GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& [key, value] : file->metadata()) {
      const std::string& name = key;
      refusable([&] { file->integer(name, INT64_MIN, INT64_MAX); });
      refusable([&] { file->number(name); });
      refusable([&] { file->boolean(name); });
      refusable([&] { file->string(name); });
      refusable([&] { file->strings(name); });
      refusable([&] { file->integers(name); });
    }
    for (const GgufTensor& tensor : file->tensors()) {
      const GgufBlock block = *gguf_block(tensor.type);
      const auto bytes = file->bytes(tensor);
      std::vector<float> values(bytes.size() / size_t(block.bytes) * size_t(block.elements));
      decode_gguf(tensor.type, bytes, values);
    }
    refusable([&] { read_gguf_model(*file); });
    // Dumping throws on text that is not UTF-8, which the reader must have refused.
    refusable([&] {
      const GgufTokenizer tokenizer = read_gguf_tokenizer(*file, 1 << 20);
      tokenizer.tokenizer.dump();
      tokenizer.tokenizer_config.dump();
    });
  });
  return 0;
}
