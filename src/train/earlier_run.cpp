// Names as save_adapter.h and the trainers of mlx-lm and PEFT give them.
#include "train/earlier_run.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "base/error.h"
#include "train/settings.h"

namespace bumblebee::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kAdapterFiles[] = {"adapters.safetensors", "adapter_model.safetensors", "adapter_model.bin",
                                         "adapter_config.json", kRecordName};

bool digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool holds_an_adapter(const fs::path& directory) {
  return std::any_of(std::begin(kAdapterFiles), std::end(kAdapterFiles), [&](const char* name) {
    std::error_code failure;
    return fs::exists(directory / name, failure);
  });
}

bool of_an_adapter(const fs::path& path) {
  constexpr std::string_view kCopy = "_adapters.safetensors", kCheckpoint = "checkpoint-";
  const std::string text = path.filename().string();
  const std::string_view name = text;
  if (std::find(std::begin(kAdapterFiles), std::end(kAdapterFiles), name) != std::end(kAdapterFiles)) return true;
  if (name.ends_with(kCopy)) return digits(name.substr(0, name.size() - kCopy.size()));
  const bool checkpoint = name.starts_with(kCheckpoint) && digits(name.substr(kCheckpoint.size()));
  return (name == "best" || checkpoint) && holds_an_adapter(path);
}

}  // namespace

std::vector<fs::path> earlier_adapters(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code absent;
  for (fs::directory_iterator it(directory, absent), last; !absent && it != last; it.increment(absent)) {
    if (of_an_adapter(it->path())) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

fs::path set_aside(const std::vector<fs::path>& paths) {
  if (paths.empty()) return {};
  const fs::path directory = paths.front().parent_path();
  fs::path aside;
  try {
    for (int i = 0; aside.empty(); ++i) {
      const fs::path candidate = directory / (".replaced-" + std::to_string(i));
      if (fs::create_directory(candidate)) aside = candidate;
    }
    for (const fs::path& path : paths) fs::rename(path, aside / path.filename());
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::bad_file, directory.string(), cat("cannot set the earlier adapter aside: ", error.what()));
  }
  return aside;
}

}  // namespace bumblebee::train
