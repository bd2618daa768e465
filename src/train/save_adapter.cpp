// lora's readers and writers do the work; what is added are numbered copies.
#include "train/save_adapter.h"

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "lora/read_adapter.h"
#include "lora/write_adapter.h"
#include "train/settings.h"

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

}  // namespace

std::vector<std::string> save_adapter(const lora::Adapter& adapter, AdapterFormat format, const AdapterNotes& notes,
                                      const fs::path& directory) {
  std::error_code failed;
  fs::create_directories(directory, failed);
  std::vector<std::string> remarks = lora::write_adapter(
      adapter, dialect_of(format), directory,
      {.layers = notes.layers, .modules = notes.modules, .prefix = notes.mlx_prefix, .config = notes.config});
  write_text_file(directory / kRecordName, notes.record->dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  return remarks;
}

fs::path save_numbered(const lora::Adapter& adapter, AdapterFormat format, const AdapterNotes& notes,
                       const fs::path& directory, int iteration) {
  save_adapter(adapter, format, notes, directory);
  if (format == AdapterFormat::mlx) {
    const fs::path copy = directory / (seven_digits(iteration) + "_adapters.safetensors");
    copy_whole(directory / "adapters.safetensors", copy);
    return copy;
  }
  const fs::path copy = directory / cat("checkpoint-", iteration);
  save_adapter(adapter, format, notes, copy);
  return copy;
}

lora::Adapter read_weights(const fs::path& path, float scale) {
  return fs::is_directory(path) ? lora::read_adapter(path) : lora::read_mlx_file(path, scale);
}

}  // namespace bumblebee::train
