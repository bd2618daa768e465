// Which dialect a directory speaks, by the names of its files; then its reader.
#include "lora/read_adapter.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "io/quote.h"
#include "lora/adapter_config.h"
#include "lora/readers.h"

namespace bumblebee::lora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMlxFile = "adapters.safetensors";
constexpr const char* kPeftFile = "adapter_model.safetensors";
constexpr const char* kExpected = "expected adapters.safetensors (mlx-lm) or adapter_model.safetensors (PEFT)";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Names what the directory holds instead of an adapter.
[[noreturn]] void refuse(const fs::path& directory) {
  const std::string where = directory.string();
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw Error(ErrorCode::bad_file, where, cat(kExpected, " in a directory, got no directory"));
  }
  for (const char* name : {"adapter_model.bin", "adapter_model.pt", "pytorch_model.bin"}) {
    if (is_there(directory / name)) {
      throw Error(ErrorCode::unsupported, where,
                  cat(kExpected, ", got '", name,
                      "': pickle files can run code when read and are refused; save it again as safetensors"));
    }
  }
  for (const char* name : {"adapters.npz", "adapter.npz"}) {
    if (is_there(directory / name)) {
      throw Error(ErrorCode::unsupported, where,
                  cat(kExpected, ", got '", name, "': files of mlx-lm before 2024 have no scale and are refused"));
    }
  }
  fs::directory_iterator it(directory, error);
  for (const fs::directory_iterator last; !error && it != last; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with("_adapters.safetensors")) {
      throw Error(ErrorCode::bad_file, where,
                  cat(kExpected, ", got only snapshots like ", in_quotes(name), ": name one of them"));
    }
    if (name.ends_with(".gguf")) {
      throw Error(ErrorCode::unsupported, where, cat(kExpected, ", got ", in_quotes(name)));
    }
    if (name == "adapter_model.safetensors.index.json") {
      throw Error(ErrorCode::unsupported, where, cat(kExpected, ", got a sharded adapter: ", in_quotes(name)));
    }
  }
  throw Error(ErrorCode::bad_file, where, cat(kExpected, ", got neither"));
}

}  // namespace

float checked_scale(double scale, std::string_view where, std::string_view what) {
  const float value = float(scale);
  if (!std::isfinite(value))
    throw Error(ErrorCode::bad_config, where, cat(what, ": expected a finite f32, got ", scale));
  return value;
}

Adapter read_adapter(const fs::path& place, const ReadOptions& options) {
  if (options.scale && !std::isfinite(*options.scale)) {
    throw Error(ErrorCode::bad_request, place.string(), cat("scale: expected a finite number, got ", *options.scale));
  }
  const bool is_file = place.extension() == ".safetensors" && fs::is_regular_file(place);
  const fs::path directory = is_file ? place.parent_path() : place;
  bool mlx = is_there(directory / kMlxFile), peft = is_there(directory / kPeftFile);
  if (!is_file && mlx && peft) {
    throw Error(ErrorCode::bad_file, directory.string(), cat("two adapters: ", kExpected, ", got both"));
  }
  if (!is_file && !mlx && !peft) refuse(directory);
  const AdapterConfig config = AdapterConfig::open(directory);
  if (is_file) mlx = config.find("peft_type") == nullptr;  // a snapshot of a training, named by itself
  const TensorSet tensors(SafetensorsFile::open(is_file ? place : directory / (mlx ? kMlxFile : kPeftFile)));
  Adapter adapter = mlx ? read_mlx(tensors, config, options) : read_peft(tensors, config);
  adapter.where = tensors.where();
  adapter.name = options.name;
  if (adapter.name.empty()) {
    const fs::path last = place.filename().empty() ? place.parent_path().filename() : place.filename();
    adapter.name = last.string();
  }
  if (options.scale && set_scale(adapter, *options.scale) == 0) {
    throw Error(ErrorCode::bad_request, adapter.where,
                cat("scale: expected none, as the adapter has no factors to scale, got ", *options.scale));
  }
  return adapter;
}

Adapter read_mlx_file(const fs::path& file, float scale) {
  const TensorSet tensors(SafetensorsFile::open(file));
  const bool dora = std::any_of(tensors.entries().begin(), tensors.entries().end(),
                                [](const TensorEntry& entry) { return entry.name.ends_with(".m"); });
  const AdapterConfig config = AdapterConfig::parse(
      cat(R"({"fine_tune_type": ")", dora ? "dora" : "lora", R"(", "lora_parameters": {"scale": 1}})"),
      tensors.where());
  Adapter adapter = read_mlx(tensors, config, {.scale = scale, .name = {}});
  set_scale(adapter, scale);
  adapter.name = adapter.where = tensors.where();
  return adapter;
}

}  // namespace bumblebee::lora
