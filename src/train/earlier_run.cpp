// Names as save_adapter.h and the trainers of mlx-lm and PEFT give them.
#include "train/earlier_run.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace bumblebee::train {

namespace fs = std::filesystem;

namespace {

bool digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool of_an_adapter(std::string_view name) {
  constexpr std::string_view kCopy = "_adapters.safetensors", kCheckpoint = "checkpoint-";
  for (const char* known :
       {"adapters.safetensors", "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json", "best"}) {
    if (name == known) return true;
  }
  if (name.ends_with(kCopy)) return digits(name.substr(0, name.size() - kCopy.size()));
  return name.starts_with(kCheckpoint) && digits(name.substr(kCheckpoint.size()));
}

}  // namespace

std::vector<fs::path> earlier_adapters(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code absent;
  for (fs::directory_iterator it(directory, absent), last; !absent && it != last; it.increment(absent)) {
    if (of_an_adapter(it->path().filename().string())) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

void remove_earlier(const std::vector<fs::path>& paths) {
  for (const fs::path& path : paths) {
    const fs::path aside = path.parent_path() / (".removing-" + path.filename().string());
    fs::rename(path, aside);
    fs::remove_all(aside);
  }
}

}  // namespace bumblebee::train
