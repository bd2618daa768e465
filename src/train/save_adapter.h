// An adapter under its final names, and the numbered copies beside it.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "bumblebee/train.h"
#include "lora/adapter.h"

namespace bumblebee::train {

/// What is written beside the factors.
struct AdapterNotes {
  int layers = 0;                      // of the base
  std::set<std::string> modules = {};  // of the base
  std::string mlx_prefix = {};         // what mlx-lm's names of its modules begin with
  Kept<Json> config;                   // further keys of mlx-lm's adapter_config.json
  Kept<Json> record;                   // adapter_training.json
};

/// Writes the files of `format` into `directory`, which is made; each file whole or not at all. Returns remarks.
std::vector<std::string> save_adapter(const lora::Adapter& adapter, AdapterFormat format, const AdapterNotes& notes,
                                      const std::filesystem::path& directory);

/// The same, and a copy as of this iteration: mlx-lm's 0000100_adapters.safetensors, or checkpoint-100/ as
/// transformers names it. Returns the copy's path.
std::filesystem::path save_numbered(const lora::Adapter& adapter, AdapterFormat format, const AdapterNotes& notes,
                                    const std::filesystem::path& directory, int iteration);

/// Weights to begin with: an adapter's directory, or one file of mlx-lm's factors, whose scale is then `scale`. Throws
/// Error(bad_file) naming file and tensor.
lora::Adapter read_weights(const std::filesystem::path& path, float scale);

}  // namespace bumblebee::train
