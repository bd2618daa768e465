// lora's writers do the work; what is added are numbered copies, and reading a file of factors without its config.
#include "train/save_adapter.h"

#include "base/error.h"
#include "base/mapped_file.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "lora/read_adapter.h"
#include "lora/write_adapter.h"
#include "quant/affine.h"

namespace bumblebee::train {
namespace {

namespace fs = std::filesystem;

lora::Dialect dialect_of(AdapterFormat format) {
  return format == AdapterFormat::mlx ? lora::Dialect::mlx : lora::Dialect::peft;
}

std::string seven_digits(int number) {
  const std::string digits = std::to_string(number);
  return std::string(digits.size() < 7 ? 7 - digits.size() : 0, '0') + digits;
}

void copy_whole(const fs::path& from, const fs::path& to) {
  AtomicFile file(to);
  file.write(MappedFile::open(from)->bytes());
  file.commit();
}

std::vector<float> floats_of(const SafetensorsFile& file, const TensorEntry& entry) {
  if (!is_float(entry.dtype))
    throw Error(ErrorCode::bad_file, file.where(), cat("tensor '", entry.name, "': expected floats"));
  std::vector<float> values(size_t(entry.end - entry.begin) / size_t(size_of(entry.dtype)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load_float(file.bytes(entry), entry.dtype, i);
  return values;
}

/// A matrix stored as its transpose.
lora::Matrix turned(const SafetensorsFile& file, const TensorEntry& entry) {
  if (entry.shape.size() != 2 || entry.shape[0] > (1u << 24) || entry.shape[1] > (1u << 24))
    throw Error(ErrorCode::bad_file, file.where(),
                cat("tensor '", entry.name, "': expected a matrix, got ", shape_text(entry.shape)));
  const std::vector<float> values = floats_of(file, entry);
  lora::Matrix matrix{int(entry.shape[1]), int(entry.shape[0]), std::vector<float>(values.size())};
  for (size_t r = 0; r < size_t(matrix.rows); ++r) {
    for (size_t c = 0; c < size_t(matrix.cols); ++c)
      matrix.values[r * size_t(matrix.cols) + c] = values[c * size_t(matrix.rows) + r];
  }
  return matrix;
}

}  // namespace

std::vector<std::string> save_adapter(const lora::Adapter& adapter, AdapterFormat format, int layers,
                                      const fs::path& directory) {
  std::error_code failed;
  fs::create_directories(directory, failed);
  return lora::write_adapter(adapter, dialect_of(format), directory, {.layers = layers});
}

fs::path save_numbered(const lora::Adapter& adapter, AdapterFormat format, int layers, const fs::path& directory,
                       int iteration) {
  save_adapter(adapter, format, layers, directory);
  if (format == AdapterFormat::mlx) {
    const fs::path copy = directory / (seven_digits(iteration) + "_adapters.safetensors");
    copy_whole(directory / "adapters.safetensors", copy);
    return copy;
  }
  const fs::path copy = directory / cat("checkpoint-", iteration);
  save_adapter(adapter, format, layers, copy);
  return copy;
}

lora::Adapter read_weights(const fs::path& path, float scale) {
  if (fs::is_directory(path)) return lora::read_adapter(path);
  const auto file = SafetensorsFile::open(path);
  lora::Adapter adapter;
  adapter.name = adapter.where = path.string();
  for (const TensorEntry& entry : file->tensors()) {
    const size_t dot = entry.name.rfind('.');
    const std::string leaf = dot == std::string::npos ? "" : entry.name.substr(dot + 1);
    if (leaf != "lora_a" && leaf != "lora_b" && leaf != "m")
      throw Error(ErrorCode::bad_file, path.string(),
                  cat("tensor '", entry.name, "': expected mlx-lm's lora_a, lora_b or m"));
    std::optional<lora::LowRank>& low = adapter.modules[entry.name.substr(0, dot)].low_rank;
    if (!low) low.emplace().scale = scale;
    if (leaf == "lora_a") low->a = turned(*file, entry);
    if (leaf == "lora_b") low->b = turned(*file, entry);
    if (leaf == "m") low->magnitude = floats_of(*file, entry);
  }
  return adapter;
}

}  // namespace bumblebee::train
