// Any bytes as config.json: refused with an Error, or rules that can be asked about any module.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "io/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  try {
    const auto config = HfConfig::parse(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
    for (const auto& [name, rule] : config.quantization.listed()) config.quantization.resolve(name);
    config.quantization.resolve("lm_head");
    config.text();
  } catch (const Error&) {
  }
  return 0;
}
