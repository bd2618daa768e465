// Shards are planned first, because their names carry their number.
#include "io/checkpoint_writer.h"

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/format.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

/// The tensors of one module stay in one shard: `a.b.weight` and `a.b.scales` are one module's.
std::string module_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path directory, const std::vector<TensorSpec>& tensors, uint64_t parameters,
                                   uint64_t shard_bytes)
    : directory_(std::move(directory)), parameters_(parameters) {
  BB_CHECK(!tensors.empty());
  for (size_t i = 0; i < tensors.size();) {
    size_t end = i;
    uint64_t bytes = 0;
    for (; end < tensors.size() && module_of(tensors[end].name) == module_of(tensors[i].name); ++end)
      bytes += tensors[end].size_bytes();
    if (shards_.empty() || (shards_.back().bytes > 0 && shards_.back().bytes + bytes > shard_bytes))
      shards_.emplace_back();
    for (; i < end; ++i) shards_.back().tensors.push_back(tensors[i]);
    shards_.back().bytes += bytes;
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].name =
        shards_.size() == 1 ? "model.safetensors" : format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size());
  }
  next_shard();
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::next_shard() {
  const Shard& shard = shards_[writers_.size()];
  writers_.push_back(
      std::make_unique<SafetensorsWriter>(directory_ / shard.name, shard.tensors, Metadata{{"format", "mlx"}}));
}

void CheckpointWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (writers_.back()->current() == nullptr) {
    BB_CHECK(writers_.size() < shards_.size(), "bytes after the last tensor");
    next_shard();
  }
  writers_.back()->append(bytes);
}

void CheckpointWriter::finish() {
  BB_CHECK(writers_.size() == shards_.size() && writers_.back()->current() == nullptr, "tensors are missing");
  Json map = Json::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards_.size(); ++i) {
    writers_[i]->finish();
    total += shards_[i].bytes;
    for (const TensorSpec& tensor : shards_[i].tensors) map[tensor.name] = shards_[i].name;
  }
  const Json index = {{"metadata", {{"total_size", total}, {"total_parameters", parameters_}}}, {"weight_map", map}};
  write_text_file(directory_ / "model.safetensors.index.json", index.dump(4) + "\n");
}

void prepare_output_directory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (!fs::is_directory(directory))
    throw Error(ErrorCode::bad_request, directory.string(), cat("cannot create the directory: ", error.message()));
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".safetensors" || name == "model.safetensors.index.json") {
      throw Error(ErrorCode::bad_request, directory.string(),
                  cat("expected a directory without a model, got one with ", name));
    }
  }
}

void write_config(const fs::path& directory, Json config) {
  config.erase("_name_or_path");
  write_text_file(directory / "config.json", config.dump(4) + "\n");
}

}  // namespace bumblebee
