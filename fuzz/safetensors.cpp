// Any bytes as a safetensors file: an Error, or tensors whose bytes can all be read.
#include <cstdint>

#include "base/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  try {
    const auto file = SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    uint64_t sum = 0;
    for (const TensorEntry& tensor : file->tensors()) {
      BB_CHECK(file->find(tensor.name) == &tensor, tensor.name);
      BB_CHECK(file->bytes(tensor).size() == tensor.size_bytes(), tensor.name);
      for (const std::byte byte : file->bytes(tensor)) sum += uint64_t(byte);
    }
    BB_CHECK(sum <= uint64_t{255} * size);
  } catch (const Error&) {
  }
  return 0;
}
