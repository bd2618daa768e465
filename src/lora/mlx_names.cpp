// Source: mlx-lm 0.32.2, mlx_lm/models: the files whose Model has `self.language_model`, of the families that we run;
// and mlx_lm/utils.py (MODEL_REMAPPING) for other names of these. Which file it takes, the whole config's model_type
// decides.
#include "lora/mlx_names.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

#include "io/hf_config.h"

namespace bumblebee::lora {
namespace {

constexpr std::array<std::string_view, 15> kWrapped = {
    "gemma3",  "gemma4",   "gemma4_unified", "kimi_k25", "kimi_vl",     "lfm2-vl",  "llava",       "mistral3",
    "pixtral", "qwen2_vl", "qwen2_5_vl",     "qwen3_5",  "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"};

}  // namespace

std::string mlx_prefix(const Json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return "";
  const bool wrapped = std::find(kWrapped.begin(), kWrapped.end(), type->get<std::string>()) != kWrapped.end();
  return wrapped ? "language_model." : "";
}

std::string mlx_prefix(const std::filesystem::path& directory) {
  if (!std::filesystem::exists(directory / "config.json")) return "";
  return mlx_prefix(*HfConfig::open(directory).json);
}

}  // namespace bumblebee::lora
