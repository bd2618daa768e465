// Any bytes as a YAML file of mlx_lm.lora: refused with an Error, or options.
#include "config/train_config.h"

#include <cstdint>

#include "bumblebee/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bumblebee;
  cli::TrainConfig config;
  try {
    cli::parse_train_config(std::string(reinterpret_cast<const char*>(data), size), "fuzz", config);
    config.chosen();
  } catch (const Error&) {
  }
  return 0;
}
