// Adapter directories, read into lora::Adapter: mlx-lm's (adapters.safetensors) and PEFT's (adapter_model.safetensors),
// each beside its adapter_config.json. Rank and targets come from the tensors, the scale from the config; where they
// disagree, and for whatever is only half understood, reading throws. What is accepted and what is refused:
// docs/adapters.md.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "lora/adapter.h"

namespace bumblebee::lora {

struct ReadOptions {
  std::optional<float> scale = {};  // instead of the config's, for every module with factors
  std::string name = {};            // instead of the directory's
};

/// Reads the adapter in a directory, or one file of tensors with the config beside it, as training leaves its
/// snapshots. Throws Error naming the file, and the tensor or key: `bad_file` for broken
/// tensors, `bad_config` for a config that contradicts them or itself, `unsupported` for what is named and refused.
Adapter read_adapter(const std::filesystem::path& place, const ReadOptions& options = {});

/// Reads one file of mlx-lm's factors without the config beside it, as mlx-lm's resume_adapter_file names one: all
/// modules get `scale`. Throws as read_adapter() does.
Adapter read_mlx_file(const std::filesystem::path& file, float scale);

}  // namespace bumblebee::lora
