// Writing a checkpoint directory as MLX does: shards of at most 5 GiB and an index, tensors streamed in a planned
// order. The weights get their names last, so that an interrupted conversion is never taken for a finished one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "base/json.h"
#include "io/safetensors.h"

namespace bumblebee {

inline constexpr uint64_t kLargestShard = uint64_t{5} << 30;

class CheckpointWriter {
 public:
  /// Plans the shards of `tensors`, which will come in this order. The directory must exist.
  CheckpointWriter(std::filesystem::path directory, const std::vector<TensorSpec>& tensors, uint64_t parameters,
                   uint64_t shard_bytes = kLargestShard);
  ~CheckpointWriter();

  /// Appends bytes of the current tensor (see SafetensorsWriter).
  void append(std::span<const std::byte> bytes);

  /// Gives the shards their names, then writes the index.
  void finish();

 private:
  struct Shard {
    std::string name;
    std::vector<TensorSpec> tensors;
    uint64_t bytes = 0;
  };
  void next_shard();

  std::filesystem::path directory_;
  std::vector<Shard> shards_;
  uint64_t parameters_ = 0;
  std::vector<std::unique_ptr<SafetensorsWriter>> writers_;
};

/// Creates `directory` for a conversion. Throws Error(bad_request) when it already holds a model or is not a directory.
void prepare_output_directory(const std::filesystem::path& directory);

/// config.json as MLX saves it: sorted keys, indent 4, without `_name_or_path`.
void write_config(const std::filesystem::path& directory, Json config);

}  // namespace bumblebee
