// Any bytes as an adapter: 'm' or 'p' for the format, a config up to the first zero byte, then a safetensors file.
// Refused with an Error, or an adapter whose every part can be used.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "lora/adapter_config.h"
#include "lora/bind_to_base.h"
#include "lora/dense.h"
#include "lora/readers.h"

namespace {

using namespace bumblebee;

void use(const lora::Adapter& adapter) {
  lora::size_bytes(adapter);
  lora::Base base{{}, true, "fuzz"};
  for (const auto& [path, change] : adapter.modules) {
    if (change.low_rank && change.low_rank->rank() <= 64) lora::delta_norm(*change.low_rank);
    if (!change.low_rank) continue;
    base.target_modules.push_back(
        {path, change.low_rank->a.cols, change.low_rank->b.rows, nn::TargetModule::Kind::linear, true});
  }
  lora::bind_to_base(adapter, base);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(text.find('\0', 1), size);
  const auto file = std::as_bytes(std::span(data, size)).subspan(std::min(zero + 1, size));
  try {
    const auto config = lora::AdapterConfig::parse(text.substr(1, zero - 1), "fuzz");
    const lora::TensorSet tensors(SafetensorsFile::parse(file, "fuzz"));
    use(text[0] == 'm' ? lora::read_mlx(tensors, config, {}) : lora::read_peft(tensors, config));
  } catch (const Error&) {
  }
  return 0;
}
