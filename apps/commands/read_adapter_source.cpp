// Reads an adapter with the strength that its source names.
#include "commands/read_adapter_source.h"

#include <filesystem>

#include "lora/read_adapter.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

lora::Weighted read(const AdapterSource& source, const CommonFlags& common) {
  lora::ReadOptions options;
  options.scale = source.scale;
  // A directory of the Hugging Face cache is named by a commit: the repository's name says more.
  if (!std::filesystem::exists(source.source)) options.name = source.source.substr(source.source.rfind('/') + 1);
  return {lora::read_adapter(source.place(common), options), source.weight};
}

lora::Merged sum_of(const std::vector<lora::Weighted>& parts) {
  if (parts.size() == 1 && parts.front().weight == 1) return {parts.front().adapter, {}};
  return lora::merge(parts);
}

std::string told_strengths(const std::vector<std::string>& sources) {
  std::string lines;
  for (const std::string& text : sources) {
    const AdapterSource source = AdapterSource::parse(text);
    if (const std::string strength = source.strength(); !strength.empty())
      lines += "applied  " + one_line(source.source) + ": " + strength + "\n";
  }
  return lines;
}

}  // namespace bumblebee::cli
